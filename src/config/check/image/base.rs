//! What an image is built on: one of `base`, `from` and `dockerfile`, and what belongs to it.

use super::super::{Checker, built_in, map, place};
use super::{arguments, build_gpu, plain_texts};
use crate::config::codes;
use crate::config::grammar::{ImageKeys, Placed, Text};
use crate::config::model::{ImageBase, RegistryAuth, Valued};
use crate::diag::{Diagnostic, Location};

impl Checker {
    pub(super) fn base(&mut self, keys: &mut ImageKeys) -> Valued<ImageBase> {
        self.one_base(keys);
        let auth = self.auth(keys);
        let add_python = keys.add_python.as_ref().is_some_and(|add| add.value);
        if let Some(from) = keys.from.take() {
            let Placed { value: name, location } = from.value;
            if !self.images.contains_key(&name.0) {
                self.unknown_name(codes::UNKNOWN_IMAGE, "image", &name.0, location, |checker| {
                    &checker.images
                });
            }
            return Valued { value: ImageBase::Image(name.0), origin: from.origin };
        }
        if let Some(dockerfile) = keys.dockerfile.take() {
            let context = keys.context.take().map(|context| context.value.0);
            let build_args = keys.build_args.take().map(|args| arguments(args.value)).unwrap_or_default();
            let ignore = keys.ignore.take().map(|list| plain_texts(list.value));
            let build_env = keys.build_env.take().map(|env| arguments(env.value)).unwrap_or_default();
            let build_gpu = keys.build_gpu.take().and_then(build_gpu);
            return map(dockerfile, |path| ImageBase::Dockerfile {
                path: path.0,
                context,
                ignore,
                build_args,
                add_python,
                auth,
                build_env,
                build_gpu,
            });
        }
        let setup = keys.setup.take().map(|list| plain_texts(list.value)).unwrap_or_default();
        let Some(base) = keys.base.take() else { return built_in(ImageBase::DebianSlim) };
        map(base, |Text(reference)| match reference.as_str() {
            "debian_slim" => ImageBase::DebianSlim,
            "micromamba" => ImageBase::Micromamba,
            "scratch" => ImageBase::Scratch,
            _ => ImageBase::Registry { reference, auth, add_python, setup },
        })
    }

    /// Reports keys that cannot stand beside each other or beside this kind of base.
    fn one_base(&mut self, keys: &ImageKeys) {
        let base = keys.base.as_ref().map(|base| ("base", place(base)));
        let from = keys.from.as_ref().map(|from| ("from", place(from)));
        let dockerfile = keys.dockerfile.as_ref().map(|dockerfile| ("dockerfile", place(dockerfile)));
        let said: Vec<_> = [base, from, dockerfile].into_iter().flatten().collect();
        if let [(first, first_at), (second, second_at), ..] = said.as_slice() {
            let message = format!("`{second}` and `{first}` both say what the image is built on");
            self.contradiction(message, *second_at, *first_at, "keep one of the two");
            return;
        }
        if let Some(base) = keys.base.as_ref()
            && let Some((message, help)) = bad_reference(&base.value.0)
        {
            self.report(Diagnostic::error(codes::BAD_VALUE, message).at(place(base)).help(help));
        }
        let built_in_base = keys.base.as_ref().is_none_or(|base| is_built_in(&base.value.0));
        let registry = !built_in_base;
        let only = |key: Option<(&'static str, Option<Location>)>, allowed: bool, help| match key {
            Some((key, at)) if !allowed => Some((key, at, help)),
            _ => None,
        };
        let has_dockerfile = keys.dockerfile.is_some();
        let needs_dockerfile = "it belongs to `dockerfile = \"…\"`";
        let needs_registry = "it belongs to a base from a registry";
        let found = [
            only(keys.context.as_ref().map(|key| ("context", place(key))), has_dockerfile, needs_dockerfile),
            only(
                keys.build_args.as_ref().map(|key| ("build_args", place(key))),
                has_dockerfile,
                needs_dockerfile,
            ),
            only(keys.ignore.as_ref().map(|key| ("ignore", place(key))), has_dockerfile, needs_dockerfile),
            only(
                keys.build_env.as_ref().map(|key| ("build_env", place(key))),
                has_dockerfile,
                needs_dockerfile,
            ),
            only(
                keys.build_gpu.as_ref().map(|key| ("build_gpu", place(key))),
                has_dockerfile,
                needs_dockerfile,
            ),
            only(keys.setup.as_ref().map(|key| ("setup", place(key))), registry, needs_registry),
            only(
                keys.add_python.as_ref().map(|key| ("add_python", place(key))),
                registry || has_dockerfile,
                "it belongs to a base from a registry or to a Dockerfile",
            ),
        ];
        for (key, at, help) in found.into_iter().flatten() {
            self.contradiction(format!("`{key}` has nothing to act on here"), at, None, help);
        }
    }

    fn auth(&mut self, keys: &mut ImageKeys) -> RegistryAuth {
        let said = [
            keys.registry_secret
                .take()
                .map(|key| ("registry_secret", place(&key), RegistryAuth::Static(key.value.0))),
            keys.ecr_secret.take().map(|key| ("ecr_secret", place(&key), RegistryAuth::Aws(key.value.0))),
            keys.gcp_secret.take().map(|key| ("gcp_secret", place(&key), RegistryAuth::Gcp(key.value.0))),
        ];
        let mut said = said.into_iter().flatten();
        let Some((first, first_at, auth)) = said.next() else { return RegistryAuth::Public };
        if let Some((second, second_at, _)) = said.next() {
            let message = format!("`{second}` and `{first}` are two ways to log in to one registry");
            self.contradiction(message, second_at, Some(first_at).flatten(), "keep one of the two");
        }
        let base_is_remote =
            keys.dockerfile.is_some() || keys.base.as_ref().is_some_and(|base| !is_built_in(&base.value.0));
        if !base_is_remote {
            let message = format!("`{first}` has no registry to log in to");
            self.contradiction(
                message,
                first_at,
                None,
                "it belongs to a base from a registry or to a Dockerfile",
            );
        }
        auth
    }
}

fn is_built_in(reference: &str) -> bool {
    matches!(reference, "debian_slim" | "micromamba" | "scratch")
}

/// A reference is `[registry/]name[:tag][@digest]`; placeholders are filled in later.
fn bad_reference(reference: &str) -> Option<(String, String)> {
    let bad = reference.is_empty() || reference.contains(char::is_whitespace);
    if bad {
        let help = "write debian_slim, micromamba, scratch or a registry reference such as \"ubuntu:24.04\"";
        return Some((format!("`{reference}` is no base"), help.to_owned()));
    }
    let near = crate::base::suggest::nearest(reference, ["debian_slim", "micromamba", "scratch"])?;
    (!is_built_in(reference) && !reference.contains([':', '/', '@', '$'])).then(|| {
        (
            format!("unknown base `{reference}`"),
            format!("did you mean `{near}`? a registry reference has a tag: \"{reference}:latest\""),
        )
    })
}

//! Image keys → images: one base, build steps in order, no circle of `from`.
//!
//! [`base`] decides what an image is built on, [`steps`] turns the keys of one table into build steps.

mod base;
mod steps;

use indexmap::IndexMap;

use self::steps::{StepExtra, note_effects, step_names};
use super::settings::{gpu, secret, volume_map};
use super::{Checker, cycles, map, place};
use crate::config::codes;
use crate::config::grammar::{GpuName, ImageKeys, ItemName, LayerKeys, Map, Placed, Scalar, StepKeys, Text};
use crate::config::model::{GpuText, Image, ImageBase, Layered, LocalImage, Setting, Valued};
use crate::diag::{Diagnostic, Location};

impl Checker {
    pub(super) fn images(&mut self, keys: Map<ItemName, Box<ImageKeys>>) -> IndexMap<String, Image> {
        let mut images = IndexMap::with_capacity(keys.entries.len());
        for (name, entry) in keys.entries {
            let image = self.image(Some(name.clone()), *entry.value.value, entry.key_location);
            images.insert(name, image);
        }
        self.circles_of_from(&images);
        images
    }

    fn circles_of_from(&mut self, images: &IndexMap<String, Image>) {
        let graph: cycles::Graph<'_> = images
            .iter()
            .filter_map(|(name, image)| match &image.base.value {
                ImageBase::Image(from) => Some((name.as_str(), vec![(from.as_str(), place(&image.base))])),
                _ => None,
            })
            .collect();
        for circle in cycles::find(images.keys().map(String::as_str), &graph) {
            let help = "give one of them a `base` instead of `from`";
            self.report(cycles::diagnostic(&circle, "image", ("builds on", "build on"), help));
        }
    }

    pub(super) fn image(&mut self, name: Option<String>, mut keys: ImageKeys, location: Location) -> Image {
        self.pip_options_without_packages(&keys);
        let base = self.base(&mut keys);
        let python = keys.python.take().map(|python| map(python, |python| python.0));
        let steps = keys.take_steps();
        let mut layers = Vec::new();
        let (mut env, mut workdir) = (IndexMap::new(), None);
        let extra = StepExtra::default();
        note_effects(&steps, &mut env, &mut workdir);
        self.steps(steps, &extra, location, &mut layers);
        for Placed { value: mut layer, location } in
            keys.layers.take().map(|list| list.value).unwrap_or_default()
        {
            let steps = layer.take_steps();
            let only_env = step_names(&steps).len() == usize::from(steps.env.is_some());
            if only_env {
                note_effects(&steps, &mut env, &mut workdir);
            } else if let Some(workdir_set) = &steps.workdir {
                workdir = Some(map(workdir_set.clone(), |text| text.0));
            }
            self.layer(layer, steps, location, &mut layers);
        }
        let local = keys.local.take().map(|local| local.value).unwrap_or_default();
        let layer_of_secrets = keys.secrets.take();
        let secrets = layer_of_secrets.map(|list| {
            let origin = list.origin;
            let valued = |entry| Valued { value: secret(entry), origin: origin.clone() };
            list.value.into_iter().map(valued).collect()
        });
        Image {
            name,
            location,
            base,
            python,
            gpu: keys.gpu.take().map(|list| map(list, |list| list.into_iter().map(gpu).collect())),
            layers,
            workdir,
            env,
            secrets: secrets.unwrap_or_default(),
            force_build: keys.force_build.is_some_and(|force| force.value),
            local: LocalImage {
                engine: local.engine.map(|engine| *engine),
                run: local
                    .run
                    .map(super::settings::each)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|text| map(text, |text| text.0))
                    .collect(),
            },
        }
    }

    fn layer(&mut self, keys: LayerKeys, steps: StepKeys, location: Location, layers: &mut Vec<Layered>) {
        let names = step_names(&steps);
        let steps_beside_env = names.iter().filter(|(name, _)| *name != "env").collect::<Vec<_>>();
        if names.is_empty() {
            self.report(
                Diagnostic::error(codes::MISSING_KEY, "a layer without a build step")
                    .at(location)
                    .help("give it one: apt, pip, run, copy, …"),
            );
        }
        if let [(first, first_at), (second, second_at), ..] = steps_beside_env.as_slice() {
            let message = format!("`{second}` and `{first}` are two steps in one layer");
            self.contradiction(
                message,
                Some(*second_at),
                Some(*first_at),
                "write a `[[…layers]]` entry for each",
            );
        }
        let mut steps = steps;
        let env = match steps_beside_env.is_empty() {
            true => IndexMap::new(),
            false => steps.env.take().map(|env| arguments(env.value)).unwrap_or_default(),
        };
        let extra = StepExtra {
            gpu: keys.gpu.and_then(build_gpu),
            secrets: keys
                .secrets
                .map(|list| list.value.into_iter().map(secret).collect())
                .unwrap_or_default(),
            volumes: keys.volumes.map(|volumes| volume_map(volumes.value)).unwrap_or_default(),
            env,
            env_secrets: keys
                .env_secrets
                .map(|sets| sets.value.into_iter().map(arguments).collect())
                .unwrap_or_default(),
            force_build: keys.force_build.is_some_and(|force| force.value),
        };
        self.steps(steps, &extra, location, layers);
    }
}

fn build_gpu(gpu: Box<Valued<GpuName>>) -> Option<GpuText> {
    let location = place(&gpu)?;
    Some(GpuText { text: gpu.value.0, wait: None, location })
}

fn plain_texts(list: Vec<Text>) -> Vec<String> {
    list.into_iter().map(|text| text.0).collect()
}

fn arguments<K>(keys: Map<K, Scalar>) -> IndexMap<String, String> {
    keys.entries.into_iter().map(|(name, entry)| (name, entry.value.value.0)).collect()
}

fn text(key: &mut Setting<Text>) -> Option<String> {
    key.take().map(|text| text.value.0)
}

fn list(key: Setting<Vec<Text>>) -> Vec<String> {
    key.map(|list| plain_texts(list.value)).unwrap_or_default()
}

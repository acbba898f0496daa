//! Dockerfiles: which lines become which layer, and which files their COPY instructions need.

use std::path::Path;

use super::pattern::normalise;
use super::{Builder, ContextMount, ImageError, LayerRequest, Namespace};
use crate::backend::modal::image::layer::BuildSecret;
use crate::plan::spec::{BaseSpec, RegistryAuth};

pub(super) const FROM_BASE: &str = "FROM base";

/// The layers of an image whose base is a Dockerfile.
pub(super) fn compile(
    base: &BaseSpec,
    python: &str,
    builder: Builder,
) -> Result<Vec<LayerRequest>, ImageError> {
    let BaseSpec::Dockerfile { file, context, ignore, build_args, add_python, auth, secrets, env, gpu } =
        base
    else {
        return Ok(Vec::new());
    };
    let name = file.path.display().to_string();
    let text = std::str::from_utf8(&file.contents).map_err(|_| ImageError::NotText(name.clone()))?;
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if *auth != RegistryAuth::Public && has_several_stages(&lines) {
        return Err(ImageError::StagesWithRegistrySecret);
    }
    let build = |commands: Vec<String>, has_parent: bool| -> Result<LayerRequest, ImageError> {
        let mut layer = LayerRequest::base(name.clone(), Namespace::Workspace, commands);
        layer.has_parent = has_parent;
        layer.context = copy_context(&lines, context, ignore.as_deref(), Some(&file.path))?;
        layer.build_args.clone_from(build_args);
        layer.gpu.clone_from(gpu);
        let inline = (!env.is_empty()).then(|| BuildSecret::Inline(env.clone()));
        layer.secrets = secrets.iter().cloned().map(BuildSecret::Named).chain(inline).collect();
        Ok(layer)
    };
    let split = if builder.splits_from() { from_line(&lines) } else { None };
    let mut layers = match split {
        None => vec![build(lines.clone(), false)?],
        Some(at) => {
            let from = LayerRequest::base(name.clone(), Namespace::Workspace, vec![lines[at].clone()]);
            let rest = &lines[at + 1..];
            let rest_says_something = rest.iter().any(|line| is_instruction(line));
            let rest = [FROM_BASE.to_owned()].into_iter().chain(rest.iter().cloned()).collect();
            let rest = rest_says_something.then(|| build(rest, true)).transpose()?;
            [from].into_iter().chain(rest).collect()
        }
    };
    layers[0].registry = auth.clone();
    if *add_python || !builder.splits_from() {
        layers.push(python_layer(&name, add_python.then_some(python), builder)?);
    }
    Ok(layers)
}

/// On top of the user's file: the Python to add, the client's needs, or nothing at all (which is sent as well).
fn python_layer(name: &str, python: Option<&str>, builder: Builder) -> Result<LayerRequest, ImageError> {
    let commands = builder.setup_commands("base", python, &[])?;
    let mut layer = LayerRequest::base(name, Namespace::Workspace, commands);
    layer.has_parent = true;
    layer.context = python.map(|python| builder.python_mount(python)).transpose()?;
    Ok(builder.with_requirements(layer))
}

fn is_instruction(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

fn is_from(line: &str) -> bool {
    let line = line.trim_start();
    line.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from"))
        && line[4..].starts_with(char::is_whitespace)
}

fn has_several_stages(lines: &[String]) -> bool {
    lines.iter().filter(|line| is_from(line)).count() > 1
}

/// Where the only FROM is, if it can be a layer of its own: the first instruction, on one line, without alias or
/// parser directive, in a file of one stage.
fn from_line(lines: &[String]) -> Option<usize> {
    let at = lines.iter().position(|line| is_instruction(line))?;
    let line = &lines[at];
    let continued = line.trim_end().ends_with('\\');
    if !is_from(line) || continued || has_alias(line) || has_several_stages(lines) {
        return None;
    }
    (!lines[..at].iter().any(|line| is_directive(line.trim()))).then_some(at)
}

/// `… AS name` at the end.
fn has_alias(line: &str) -> bool {
    let mut words = line.split_whitespace().rev();
    let (Some(_), Some(keyword)) = (words.next(), words.next()) else { return false };
    keyword.eq_ignore_ascii_case("as")
}

/// `# name=value`.
fn is_directive(line: &str) -> bool {
    let Some(rest) = line.strip_prefix('#') else { return false };
    let rest = rest.trim_start();
    let name = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric()).len();
    rest.starts_with(|c: char| c.is_ascii_alphabetic()) && rest[name..].trim_start().starts_with('=')
}

/// The files that COPY instructions name; `None` when there are none.
pub(super) fn copy_context(
    lines: &[String],
    folder: &Path,
    ignore: Option<&[String]>,
    dockerfile: Option<&Path>,
) -> Result<Option<ContextMount>, ImageError> {
    let sources = copy_sources(lines)?;
    if sources.is_empty() {
        return Ok(None);
    }
    for source in &sources {
        let inside = normalise(source.trim_start_matches('/'));
        if inside == ".." || inside.starts_with("../") {
            return Err(ImageError::CopyOutside(source.clone()));
        }
    }
    Ok(Some(ContextMount::Copied {
        folder: folder.to_owned(),
        sources,
        ignore: ignore.map(<[String]>::to_vec),
        dockerfile: dockerfile.map(Path::to_owned),
    }))
}

/// Sources of all COPY instructions, without those that copy from another stage or image.
fn copy_sources(lines: &[String]) -> Result<Vec<String>, ImageError> {
    let mut sources: Vec<String> = Vec::new();
    for instruction in instructions(lines) {
        let Some(arguments) = copy_arguments(&instruction) else { continue };
        let mut words = split_words(arguments)?;
        if words.iter().any(|word| word.starts_with("--from=")) {
            continue;
        }
        words.retain(|word| {
            word != "--link" && !["--chmod=", "--chown=", "--link="].iter().any(|flag| word.starts_with(flag))
        });
        words.pop();
        for source in words {
            if source.trim_start().starts_with("--") || source.starts_with('$') {
                return Err(ImageError::CopySource(source));
            }
            let source = if source == "." { "./**".to_owned() } else { source };
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
    }
    Ok(sources)
}

/// Lines without comments and blanks, continued ones joined.
fn instructions(lines: &[String]) -> Vec<String> {
    let mut done = Vec::new();
    let mut open = String::new();
    for line in lines.iter().map(|line| line.trim()).filter(|line| is_instruction(line)) {
        if !open.is_empty() {
            open.push(' ');
        }
        open.push_str(line.trim_end_matches('\\').trim());
        if !line.ends_with('\\') {
            done.push(std::mem::take(&mut open));
        }
    }
    done
}

fn copy_arguments(instruction: &str) -> Option<&str> {
    let word = instruction.get(..4)?;
    let rest = &instruction[4..];
    (word.eq_ignore_ascii_case("copy") && rest.starts_with(char::is_whitespace)).then(|| rest.trim_start())
}

/// Words as a POSIX shell splits them, without expansions.
fn split_words(text: &str) -> Result<Vec<String>, ImageError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    let unclosed = || ImageError::UnclosedQuote(text.to_owned());
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(chars.next().ok_or_else(unclosed)?),
            '\'' | '"' => {
                let open = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or_else(unclosed)? {
                        end if end == c => break,
                        '\\' if c == '"' => {
                            let next = chars.next().ok_or_else(unclosed)?;
                            if !['"', '\\'].contains(&next) {
                                open.push('\\');
                            }
                            open.push(next);
                        }
                        inner => open.push(inner),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split('\n').map(str::to_owned).collect()
    }

    #[test]
    fn splits_only_plain_files_of_one_stage() {
        let at = |text| from_line(&lines(text));
        assert_eq!(at("FROM a\nRUN b"), Some(0));
        assert_eq!(at("# note\n\n  from a\nRUN b"), Some(2));
        assert_eq!(at("FROM a AS b\nRUN c"), None);
        assert_eq!(at("FROM a \\\n  AS b"), None);
        assert_eq!(at("ARG A=1\nFROM a"), None);
        assert_eq!(at("# syntax=docker/dockerfile:1\nFROM a"), None);
        assert_eq!(at("# escape = `\nFROM a"), None);
        assert_eq!(at("FROM a\nFROM b"), None);
        assert_eq!(at(""), None);
    }

    #[test]
    fn copy_sources_are_found() {
        let check = |text, expect: &[&str]| assert_eq!(copy_sources(&lines(text)).unwrap(), expect, "{text}");
        check("COPY a b", &["a"]);
        check("copy --chown=1:1 --link a 'b c' \"d\" /x", &["a", "b c", "d"]);
        check("COPY \\\n# a comment\n  a \\\n  b /x", &["a", "b"]);
        check("COPY --from=other a b\nADD c d", &[]);
        check("COPY . /srv", &["./**"]);
        check("COPYX a b\nRUN COPY a b", &[]);
        assert!(matches!(copy_sources(&lines("COPY $A b")), Err(ImageError::CopySource(_))));
        assert!(matches!(copy_sources(&lines("COPY --parents a b")), Err(ImageError::CopySource(_))));
        assert!(matches!(copy_sources(&lines("COPY 'a b")), Err(ImageError::UnclosedQuote(_))));
    }

    #[test]
    fn sources_outside_the_context_are_refused() {
        let mount = |text| copy_context(&lines(text), Path::new("ctx"), None, None);
        assert!(matches!(mount("COPY ../x y"), Err(ImageError::CopyOutside(_))));
        assert!(matches!(mount("COPY a/../../x y"), Err(ImageError::CopyOutside(_))));
        assert!(mount("COPY /a y").unwrap().is_some());
        assert!(mount("RUN a").unwrap().is_none());
    }
}

//! Requirements files: those that `-r` lines name are put in place of the line, so that an image's digest and
//! both backends see one complete text.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::spec::FileRef;

/// Files within files deeper than this are left as they are written.
const MAX_DEPTH: usize = 16;

/// The file's text with every `-r other.txt` replaced by that file's own; `read` gives a file by its path
/// relative to the root. A line whose file cannot be had stays as it is.
pub fn inline(file: &FileRef, read: &dyn Fn(&Path) -> Option<Arc<[u8]>>) -> Arc<[u8]> {
    if !names_another(&file.contents) {
        return file.contents.clone();
    }
    let mut whole = Vec::with_capacity(file.contents.len());
    append(&file.path, &file.contents, read, &mut vec![file.path.clone()], &mut whole);
    Arc::from(whole)
}

fn append(
    path: &Path,
    contents: &[u8],
    read: &dyn Fn(&Path) -> Option<Arc<[u8]>>,
    open: &mut Vec<PathBuf>,
    whole: &mut Vec<u8>,
) {
    for line in contents.split_inclusive(|byte| *byte == b'\n') {
        let named = included(line).map(|name| path.parent().unwrap_or(Path::new("")).join(&*name));
        let named = named.filter(|named| !open.contains(named) && open.len() < MAX_DEPTH);
        let Some((named, contents)) = named.and_then(|named| read(&named).map(|contents| (named, contents)))
        else {
            whole.extend_from_slice(line);
            continue;
        };
        open.push(named.clone());
        append(&named, &contents, read, open, whole);
        open.pop();
        if whole.last().is_some_and(|byte| *byte != b'\n') {
            whole.push(b'\n');
        }
    }
}

fn names_another(contents: &[u8]) -> bool {
    contents.split(|byte| *byte == b'\n').any(|line| included(line).is_some())
}

/// The file that a `-r` or `--requirement` line names; not an address.
fn included(line: &[u8]) -> Option<Cow<'_, str>> {
    let line = std::str::from_utf8(line).ok()?.trim();
    let rest = line.strip_prefix("--requirement").or_else(|| line.strip_prefix("-r"))?;
    let rest = rest.split(" #").next().unwrap_or(rest);
    let name = rest.trim_start_matches(['=', ' ', '\t']).trim_end();
    (!name.is_empty() && !name.contains("://")).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inlined(path: &str, files: &[(&str, &str)]) -> String {
        let read = |wanted: &Path| {
            let found = files.iter().find(|(path, _)| Path::new(path) == wanted);
            found.map(|(_, text)| Arc::from(text.as_bytes()))
        };
        let file = FileRef { path: path.into(), contents: read(Path::new(path)).unwrap() };
        String::from_utf8(inline(&file, &read).to_vec()).unwrap()
    }

    #[test]
    fn puts_named_files_in_place() {
        let files = [
            ("ci/dev.txt", "pytest\n-r base.txt # ours\n--requirement=more/extra.txt\nrich"),
            ("ci/base.txt", "numpy"),
            ("ci/more/extra.txt", "-r ../base.txt\nblack\n"),
        ];
        let text = inlined("ci/dev.txt", &files[..2]);
        assert_eq!(text, "pytest\nnumpy\n--requirement=more/extra.txt\nrich");
        assert!(inlined("ci/base.txt", &files) == "numpy");
    }

    #[test]
    fn ends_on_files_that_name_themselves() {
        let files = [("a.txt", "-r b.txt\nx\n"), ("b.txt", "y\n-r a.txt\n")];
        assert_eq!(inlined("a.txt", &files), "y\n-r a.txt\nx\n");
    }

    #[test]
    fn addresses_and_other_options_stay() {
        let text = "-r https://example.org/r.txt\n-c constraints.txt\n-e .\n";
        assert_eq!(inlined("a.txt", &[("a.txt", text)]), text);
    }
}

//! What a job left of the tree: the list of what it was given, and what the sandbox says about it.
//!
//! Pure. The list lies in the sandbox and is changed by edits; its digest tells whether both sides mean the same one.
//! Names that could not stand on a line of it are left out and count as spoiled, so they are sent with every run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::Digest as _;

use super::record::{Spoiled, by_path};
use crate::workspace::tree::{Contents, Manifest, Sha256Digest};

/// Types of files as `stat` shows them.
const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
/// A link's permission bits are always these.
const LINK: u32 = 0o120_777;

/// What makes the list in a sandbox that of another tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    /// Lines to take away, then lines to add.
    pub(crate) text: String,
    pub(crate) gone: usize,
}

impl Edits {
    pub(crate) fn between(old: Option<&Manifest>, new: &Manifest) -> Self {
        let (old, new) = (old.map(lines).unwrap_or_default(), lines(new));
        let gone: Vec<&String> = old.iter().filter(|line| new.binary_search(line).is_err()).collect();
        let added = new.iter().filter(|line| old.binary_search(line).is_err());
        let text: String = gone.iter().copied().chain(added).flat_map(|line| [line.as_str(), "\n"]).collect();
        Self { text, gone: gone.len() }
    }
}

/// In the order of their bytes.
fn lines(tree: &Manifest) -> Vec<String> {
    let mut lines: Vec<String> =
        by_path(tree).into_iter().filter_map(|(path, contents)| line(path, contents)).collect();
    lines.sort_unstable();
    lines
}

fn line(path: &str, contents: &Contents) -> Option<String> {
    if !is_plain(path) {
        return None;
    }
    match contents {
        Contents::File { mode, sha256, .. } => Some(format!("f\t{:x}\t{sha256}\t./{path}", FILE | mode)),
        Contents::Directory { mode } => Some(format!("d\t{:x}\t-\t./{path}", FOLDER | mode)),
        Contents::Symlink { target } if is_plain(target) && !target.is_empty() => {
            Some(format!("l\t{LINK:x}\t{target}\t./{path}"))
        }
        Contents::Symlink { .. } => None,
    }
}

/// `sha256sum` writes other names than these in a form of its own, and a line has to stay one.
fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || c == '\\')
}

fn list_digest(tree: &Manifest) -> Sha256Digest {
    let mut digest = sha2::Sha256::new();
    for line in lines(tree) {
        digest.update(line.as_bytes());
        digest.update(b"\n");
    }
    Sha256Digest(digest.finalize().into())
}

/// Reads what `settle.sh` said about a sandbox whose list is that of `tree`. `None`: it did not come to its end, or its
/// list is another one.
pub(crate) fn judge(said: &str, tree: &Manifest) -> Option<Spoiled> {
    let mut lines = said.lines();
    let mut expected = String::new();
    let _ = write!(expected, "list {}", list_digest(tree));
    if lines.next() != Some(expected.as_str()) || said.lines().last() != Some("settled") {
        return None;
    }
    let known = by_path(tree);
    let mut spoiled = Spoiled { paths: unlisted(&known), ..Spoiled::default() };
    for line in lines {
        if let Some(path) = line.strip_prefix("F ./") {
            spoiled.paths.insert(path.to_owned());
        } else if let Some(path) = line.strip_prefix("D ./") {
            spoiled.modes.insert(path.to_owned());
        } else if line != "settled" {
            return None;
        }
    }
    let all_known = spoiled.paths.iter().chain(&spoiled.modes).all(|path| known.contains_key(path.as_str()));
    all_known.then_some(spoiled)
}

fn unlisted(known: &BTreeMap<&str, &Contents>) -> std::collections::BTreeSet<String> {
    let odd = known.iter().filter(|(path, contents)| line(path, contents).is_none());
    odd.map(|(path, _)| (*path).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::workspace::tree::ManifestEntry;

    fn tree(entries: &[(&str, Contents)]) -> Manifest {
        let entry = |(path, contents): &(&str, Contents)| ManifestEntry {
            path: (*path).into(),
            contents: contents.clone(),
        };
        Manifest::new(entries.iter().map(entry).collect())
    }

    fn file(byte: u8) -> Contents {
        Contents::File { mode: 0o644, size: 1, sha256: Sha256Digest([byte; 32]) }
    }

    #[test]
    fn edits_take_away_before_they_add() {
        let link = Contents::Symlink { target: "a b".into() };
        let folder = Contents::Directory { mode: 0o755 };
        let old = tree(&[("a", file(1)), ("d", folder.clone()), ("odd\n", file(1))]);
        let new = tree(&[("a", file(2)), ("d", folder), ("d/l", link)]);
        let sha = |byte: u8| Sha256Digest([byte; 32]);
        let edits = Edits::between(Some(&old), &new);
        let expect = format!("f\t81a4\t{}\t./a\nf\t81a4\t{}\t./a\nl\ta1ff\ta b\t./d/l\n", sha(1), sha(2));
        assert_eq!(edits, Edits { text: expect, gone: 1 });
        assert_eq!(Edits::between(Some(&new), &new), Edits::default());
        assert!(Edits::between(None, &new).text.contains("d\t41ed\t-\t./d\n"));
    }

    #[test]
    fn only_a_whole_answer_about_the_same_list_counts() {
        let tree = tree(&[("a", file(1)), ("d", Contents::Directory { mode: 0o755 }), ("odd\\", file(1))]);
        let said = |rest: &str| judge(&format!("list {}\n{rest}", list_digest(&tree)), &tree);
        let spoiled = said("F ./a\nD ./d\nF ./a\nsettled\n").unwrap();
        assert_eq!(spoiled.paths.iter().collect::<Vec<_>>(), ["a", "odd\\"]);
        assert_eq!(spoiled.modes.iter().collect::<Vec<_>>(), ["d"]);
        assert_eq!(said("F ./a\n"), None, "it did not come to its end");
        assert_eq!(said("F ./unknown\nsettled\n"), None);
        assert_eq!(judge("list 00\nsettled\n", &tree), None, "another list");
    }

    proptest! {
        #[test]
        fn whatever_is_said_about_a_tree_is_about_that_tree(
            lines in prop::collection::vec("(F ./|D ./|settled|list |)[ad/. \\\\é\u{0}-]{0,4}", 0..6),
            whole in any::<bool>(),
        ) {
            let tree = tree(&[("a", file(1)), ("d", Contents::Directory { mode: 0o755 }), ("odd\\", file(1))]);
            let list = if whole { format!("list {}\n", list_digest(&tree)) } else { String::new() };
            if let Some(spoiled) = judge(&format!("{list}{}\nsettled", lines.join("\n")), &tree) {
                let known = by_path(&tree);
                prop_assert!(whole);
                prop_assert!(spoiled.paths.iter().chain(&spoiled.modes).all(|path| known.contains_key(path.as_str())));
            }
        }

        #[test]
        fn any_other_text_is_no_answer(said in "(?s).{0,80}") {
            prop_assert_eq!(judge(&said, &tree(&[("a", file(1))])), None);
        }
    }
}

//! The size limit, checked before anything is read.

use std::collections::BTreeMap;

use super::{Entry, EntryKind, Scan, TreeError};
use crate::base::size::Bytes;

/// How many offenders an error names.
const NAMED: usize = 5;

/// A folder that holds this share of its parent is named instead of it.
const MOST_OF: f64 = 0.8;

pub(super) fn check(entries: &[Entry], limit: Bytes) -> Result<u64, TreeError> {
    let total: u64 = entries.iter().map(size).sum();
    if total <= limit.0 {
        return Ok(total);
    }
    Err(TreeError::TooLarge { size: Bytes(total), limit, largest: largest(entries) })
}

impl Scan {
    /// Where the bytes are: folders (with a final `/`) and files, largest first.
    pub fn largest(&self) -> Vec<(String, Bytes)> {
        largest(&self.entries)
    }
}

fn size(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::File(stat) => stat.size,
        _ => 0,
    }
}

/// The largest things at the top, each narrowed down to where its bytes are.
fn largest(entries: &[Entry]) -> Vec<(String, Bytes)> {
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| size(entry) > 0) {
        *sizes.entry(entry.path.to_string()).or_default() += size(entry);
        for (at, _) in entry.path.match_indices('/') {
            *sizes.entry(entry.path[..=at].to_owned()).or_default() += size(entry);
        }
    }
    let mut top: Vec<(String, u64)> = children(&sizes, "").collect();
    for (path, size) in &mut top {
        narrow(&sizes, path, size);
    }
    top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    top.into_iter().take(NAMED).map(|(path, size)| (path, Bytes(size))).collect()
}

fn children<'a>(
    sizes: &'a BTreeMap<String, u64>,
    folder: &'a str,
) -> impl Iterator<Item = (String, u64)> + 'a {
    let below = sizes.range(folder.to_owned()..).take_while(move |(path, _)| path.starts_with(folder));
    below.filter_map(move |(path, size)| {
        let rest = path[folder.len()..].trim_end_matches('/');
        (!rest.is_empty() && !rest.contains('/')).then(|| (path.clone(), *size))
    })
}

fn narrow(sizes: &BTreeMap<String, u64>, path: &mut String, size: &mut u64) {
    while path.ends_with('/') {
        let Some((inner, inner_size)) = children(sizes, path).max_by_key(|(_, size)| *size) else { return };
        if (inner_size as f64) < *size as f64 * MOST_OF {
            return;
        }
        (*path, *size) = (inner, inner_size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::tree::FileStat;

    #[test]
    fn names_where_the_bytes_are() {
        let file = |path: &str, size| Entry {
            path: path.into(),
            kind: EntryKind::File(FileStat { size, modified: 0, changed: 0, inode: 0, mode: 0o644 }),
        };
        let entries = [
            file("data/raw/2024/a.bin", 600),
            file("data/raw/2024/b.bin", 600),
            file("data/notes.txt", 10),
            file("model.pt", 900),
            file("src/a.py", 5),
            file("src/b.py", 5),
        ];
        assert_eq!(check(&entries, Bytes(5000)).unwrap(), 2120);
        let error = check(&entries, Bytes(1000)).unwrap_err();
        insta::assert_snapshot!(error, @"the tree is 2.1KiB, more than [sync] max_size = 1000B; largest: data/raw/2024/ 1.2KiB, model.pt 900B, src/ 10B");
    }
}

//! Where links lead, as far as their names alone tell.

use super::Refusal;

/// Why a link may not travel, if it leads out of the tree.
pub(super) fn outside(path: &str, target: &str) -> Option<Refusal> {
    let (path_text, target_text) = (path.to_owned(), target.to_owned());
    if target.starts_with('/') {
        return Some(Refusal::AbsoluteLink { path: path_text, target: target_text });
    }
    stays_inside(path, target)
        .is_none()
        .then_some(Refusal::OutsideLink { path: path_text, target: target_text })
}

/// Where a relative link leads, as far as the names alone tell; `None` when that is above the root.
pub(crate) fn stays_inside(path: &str, target: &str) -> Option<String> {
    let mut at: Vec<&str> = path.split('/').collect();
    at.pop();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(at.pop()?),
            name => at.push(name),
        }
    }
    Some(at.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_by_name_only() {
        for (path, target, expected) in [
            ("a/b/link", "../c", Some("a/c")),
            ("link", "a/../b", Some("b")),
            ("link", "..", None),
            ("a/link", "../..", None),
            ("a/link", "..", Some("")),
            ("a/link", "../../project/x", None),
        ] {
            assert_eq!(stays_inside(path, target).as_deref(), expected, "{path} -> {target}");
        }
    }
}

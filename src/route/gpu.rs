//! Whether a wanted GPU is among those of this machine, by the names that drivers report.

use crate::domain::Gpu;

/// `here` has a name per GPU (`NVIDIA A100-SXM4-40GB`). Every word of the kind must be a word of the name, so
/// that A10 is no A100; enough GPUs of the kind must be there.
pub fn is_here(wanted: &Gpu, here: &[String]) -> bool {
    let kind = wanted.kind.trim_end_matches(['!', '+']);
    let matching = here.iter().filter(|name| kind == "ANY" || names(kind, name)).count();
    matching >= wanted.count as usize
}

fn names(kind: &str, name: &str) -> bool {
    let name = name.to_uppercase();
    // Modal's A10 is the A10G.
    let same = |word: &str, other: &str| word == other || (word == "A10" && other == "A10G");
    words(kind).all(|word| words(&name).any(|other| same(word, other)))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_whole_words() {
        let check = |wanted: &str, here: &[&str], expected: bool| {
            let here: Vec<String> = here.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(is_here(&Gpu::parse(wanted).expect(wanted), &here), expected, "{wanted} in {here:?}");
        };
        check("T4", &["Tesla T4"], true);
        check("A100", &["NVIDIA A100-SXM4-40GB"], true);
        check("A100-40GB", &["NVIDIA A100-SXM4-40GB"], true);
        check("A100-80GB", &["NVIDIA A100-SXM4-40GB"], false);
        check("A10", &["NVIDIA A100-SXM4-40GB"], false);
        check("A10", &["NVIDIA A10G"], true);
        check("L4", &["NVIDIA L40S"], false);
        check("H100!", &["NVIDIA H100 80GB HBM3"], true);
        check("H100:2", &["NVIDIA H100 80GB HBM3"], false);
        check("H100:2", &["NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"], true);
        check("any", &["GeForce RTX 4090"], true);
        check("any", &[], false);
    }
}

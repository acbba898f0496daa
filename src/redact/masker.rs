//! One stream of bytes with its secrets masked, whatever chunks it comes in.
//!
//! Held back is the longest tail that is the beginning of a pattern, and nothing else. All matches count, also those
//! that overlap: what any of them covers is masked, so that a shorter secret never uncovers the end of a longer one.

use std::ops::Range;
use std::sync::Arc;

use super::{MASK, Search, Secrets};

/// The state of one stream.
#[derive(Clone)]
pub struct Masker {
    search: Option<Arc<Search>>,
    /// The tail that may become a secret.
    held: Vec<u8>,
    /// How much of `held` was shown because nobody could wait any longer.
    shown: usize,
    /// How much of `held` belongs to a secret whose mask is written.
    covered: usize,
}

impl Masker {
    pub fn new(secrets: &Secrets) -> Self {
        Self { search: secrets.0.clone(), held: Vec::new(), shown: 0, covered: 0 }
    }

    /// Whether bytes wait for what comes next.
    pub fn is_holding(&self) -> bool {
        self.shown.max(self.covered) < self.held.len()
    }

    /// Appends to `out` what of the stream can be shown now.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let Some(search) = self.search.clone() else { return out.extend_from_slice(chunk) };
        if self.held.is_empty() {
            let hold = search.tail(chunk);
            let secrets = search.secrets(chunk, 0);
            self.show(chunk, hold, &secrets, out);
            return;
        }
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(chunk);
        let hold = search.tail(&bytes);
        let secrets = search.secrets(&bytes, self.covered);
        self.show(&bytes, hold, &secrets, out);
    }

    /// Shows what is held back, for a reader who waits: the beginning of what may be a secret. Should it turn out to
    /// be one, the rest is masked.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let Some(search) = self.search.clone() else { return };
        let bytes = std::mem::take(&mut self.held);
        let secrets = search.secrets(&bytes, self.covered);
        let covered = secrets.last().filter(|last| last.end == bytes.len()).map_or(0, |last| last.len());
        self.show(&bytes, bytes.len(), &secrets, out);
        // Kept for recognising the rest.
        self.shown = bytes.len();
        self.covered = if covered == bytes.len() { covered } else { 0 };
        self.held = bytes;
    }

    /// Shows what is held back; the stream is over.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
        self.held.clear();
        (self.shown, self.covered) = (0, 0);
    }

    /// Shows `bytes` up to `hold` and holds the rest. `secrets` are sorted and apart.
    fn show(&mut self, bytes: &[u8], hold: usize, secrets: &[Range<usize>], out: &mut Vec<u8>) {
        let mut at = self.shown;
        for secret in secrets.iter().filter(|secret| secret.start < hold) {
            if secret.end <= at {
                continue;
            }
            out.extend_from_slice(&bytes[at.min(secret.start)..secret.start]);
            // The first `covered` bytes have their mask already.
            if secret.start > 0 || self.covered == 0 {
                out.extend_from_slice(MASK.as_bytes());
            }
            at = secret.end;
        }
        if at < hold {
            out.extend_from_slice(&bytes[at..hold]);
        }
        self.held = bytes[hold..].to_vec();
        self.shown = self.shown.saturating_sub(hold);
        self.covered = at.max(self.covered).saturating_sub(hold).min(self.held.len());
    }
}

impl Search {
    /// What of `bytes` is secret: sorted, apart. The first `covered` bytes are known to be.
    fn secrets(&self, bytes: &[u8], covered: usize) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        if covered > 0 {
            found.push(0..covered);
        }
        // Most text holds none, and asking that is quicker.
        if !self.automaton.is_match(bytes) {
            return found;
        }
        found.extend(self.automaton.find_overlapping_iter(bytes).map(|found| found.range()));
        found.sort_unstable_by_key(|range| (range.start, range.end));
        found.dedup_by(|next, kept| {
            let joined = next.start < kept.end;
            if joined {
                kept.end = kept.end.max(next.end);
            }
            joined
        });
        found
    }

    /// Where the longest tail begins that a pattern begins with and goes beyond.
    fn tail(&self, bytes: &[u8]) -> usize {
        let first = bytes.len().saturating_sub(self.longest - 1);
        (first..bytes.len()).find(|at| self.is_beginning(&bytes[*at..])).unwrap_or(bytes.len())
    }

    fn is_beginning(&self, tail: &[u8]) -> bool {
        if let [first, second, ..] = tail
            && !self.beginnings[usize::from(*first) << 8 | usize::from(*second)]
        {
            return false;
        }
        // Patterns are sorted, so those that begin with `tail` lie together, `tail` itself first.
        let at = self.patterns.partition_point(|pattern| pattern.as_slice() <= tail);
        self.patterns.get(at).is_some_and(|pattern| pattern.starts_with(tail))
    }
}

//! The other end: the command that sends outputs from a sandbox as one tar stream.
//!
//! Images differ in what they have, so the command is a small `sh` script that takes the first of:
//!
//! 1. `python3`: walks and writes the archive itself, exact for every name;
//! 2. GNU `tar` with `find` and `grep`: exact as well;
//! 3. another `tar` (busybox): as 2, but names that hold a line break make it fail.
//!
//! Without any it ends with 127 and says what is missing; an image without `sh` cannot send outputs. Only what the declared outputs
//! cover is sent (files, links and folders), `.git` never. Hard links are sent as files; what is neither file, link nor folder is named on stderr
//! and left out. The exit code is 0 only when everything was sent; the receiver also checks that the archive has its end.
//!
//! The patterns travel as one extended regular expression, which both Python and `grep -E` read alike.

const SCRIPT: &str = include_str!("pack.sh");
const PYTHON: &str = include_str!("pack.py");

/// The argument list to run in the sandbox; its stdout is the stream for [`unpack`](super::unpack).
///
/// `root` is the working directory of the job there, `outputs` are globs relative to it.
pub fn pack_command(root: &str, outputs: &[String]) -> Vec<String> {
    let fixed = ["sh", "-c", SCRIPT, "accel-pack", root];
    let mut command: Vec<String> = fixed.iter().map(ToString::to_string).collect();
    command.push(expression(outputs));
    command.push(PYTHON.to_owned());
    command.extend(starts(outputs));
    command
}

/// The folders and files from which everything that may match can be reached.
fn starts(outputs: &[String]) -> Vec<String> {
    let mut starts: Vec<String> = outputs.iter().map(|pattern| literal_start(normal(pattern))).collect();
    starts.sort();
    starts.dedup();
    if starts.iter().any(String::is_empty) {
        return vec![".".to_owned()];
    }
    let all = starts.clone();
    starts.retain(|start| {
        !all.iter().any(|other| start.strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/')))
    });
    starts
}

fn normal(pattern: &str) -> &str {
    pattern.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/')
}

fn literal_start(pattern: &str) -> String {
    let names = pattern.split('/').take_while(|name| !name.contains(['*', '?', '[', '{', '\\']));
    names.collect::<Vec<_>>().join("/")
}

/// Of whole paths.
fn expression(outputs: &[String]) -> String {
    let mut alternatives = Vec::new();
    for pattern in outputs {
        let pattern = normal(pattern);
        alternatives.push(translate(pattern));
        alternatives.extend(pattern.strip_suffix("/**").filter(|folder| !folder.is_empty()).map(translate));
    }
    format!("({})(/.*)?", alternatives.join("|"))
}

/// A glob as an extended regular expression over bytes.
fn translate(pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern.chars().peekable();
    let mut depth = 0;
    let mut at_start = true;
    while let Some(c) = rest.next() {
        let was_at_start = std::mem::replace(&mut at_start, c == '/');
        match c {
            '*' if rest.peek() == Some(&'*') => {
                rest.next();
                if was_at_start && rest.peek() == Some(&'/') {
                    rest.next();
                    out.push_str("(.*/)?");
                    at_start = true;
                } else {
                    out.push_str(if was_at_start && rest.peek().is_none() { ".*" } else { "[^/]*" });
                }
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '[' => class(&mut rest, &mut out),
            '{' => {
                depth += 1;
                out.push('(');
            }
            '}' if depth > 0 => {
                depth -= 1;
                out.push(')');
            }
            ',' if depth > 0 => out.push('|'),
            '\\' => literal(rest.next().unwrap_or('\\'), &mut out),
            c => literal(c, &mut out),
        }
    }
    out
}

fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    out.push('[');
    if matches!(rest.peek(), Some('!' | '^')) {
        rest.next();
        out.push('^');
    }
    let mut first = true;
    for c in rest.by_ref() {
        if c == ']' && !first {
            break;
        }
        first = false;
        out.push(c);
    }
    out.push(']');
}

fn literal(c: char, out: &mut String) {
    if ".^$+()|{}[]*?\\".contains(c) {
        out.push('\\');
    }
    out.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_as_expressions() {
        let show = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            format!("{} from {}", expression(&patterns), starts(&patterns).join(" "))
        };
        insta::assert_snapshot!(show(&["reports/**"]), @r"(reports/.*|reports)(/.*)? from reports");
        insta::assert_snapshot!(show(&["**/*.xml", "dist"]), @r"((.*/)?[^/]*\.xml|dist)(/.*)? from .");
        insta::assert_snapshot!(show(&["a/b/{x,y}-?.[!t]xt", "a/b", "a/bc"]), @r"(a/b/(x|y)-[^/]\.[^t]xt|a/b|a/bc)(/.*)? from a/b a/bc");
    }
}

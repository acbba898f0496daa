use proptest::prelude::*;

use super::*;

fn secrets(values: &[&str]) -> Secrets {
    let builder = values.iter().enumerate();
    let builder = builder
        .fold(SecretsBuilder::default(), |builder, (at, value)| builder.secret(&format!("V{at}"), value));
    builder.build().0
}

/// `text` in two chunks, and flushed between them where that is asked for.
fn in_two(secrets: &Secrets, text: &[u8], at: usize, flushed: bool) -> Vec<u8> {
    let mut masker = Masker::new(secrets);
    let mut out = Vec::new();
    masker.push(&text[..at], &mut out);
    if flushed {
        masker.flush(&mut out);
    }
    masker.push(&text[at..], &mut out);
    masker.finish(&mut out);
    out
}

#[test]
fn a_secret_is_masked_wherever_it_is_cut() {
    let known = secrets(&["hunter2-correct-horse"]);
    let text = b"before hunter2-correct-horse after\n";
    for at in 0..=text.len() {
        let shown = in_two(&known, text, at, false);
        assert_eq!(String::from_utf8(shown).unwrap(), "before *** after\n", "cut at {at}");
    }
}

#[test]
fn every_byte_alone_shows_the_same() {
    let known = secrets(&["abcd", "cdefgh", "abcdefzz"]);
    let check = |text: &str, expect: &str| {
        let mut masker = Masker::new(&known);
        let mut out = Vec::new();
        text.bytes().for_each(|byte| masker.push(&[byte], &mut out));
        masker.finish(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expect, "{text}");
        assert_eq!(known.mask(text), expect, "{text}");
    };
    check("abcd", "***");
    check("xabcdx", "x***x");
    // The second begins within the first; the third goes on where the first ends.
    check("xabcdefghx", "x***x");
    check("xabcdefzzx", "x***x");
    check("xabcdefx", "x***efx");
    check("abcabcabc", "abcabcabc");
    check("abcdabcd", "******");
}

#[test]
fn no_more_is_held_than_could_become_a_secret() {
    let known = secrets(&["secret-value"]);
    let mut masker = Masker::new(&known);
    let mut out = Vec::new();
    masker.push(b"Password: ", &mut out);
    assert_eq!(out, b"Password: ");
    assert!(!masker.is_holding());
    masker.push(b"my sec", &mut out);
    assert_eq!(out, b"Password: my ");
    assert!(masker.is_holding());
    masker.flush(&mut out);
    assert_eq!(out, b"Password: my sec");
    assert!(!masker.is_holding());
    // Its beginning was shown to a reader who waited; the rest is not.
    masker.push(b"ret-value.", &mut out);
    assert_eq!(out, b"Password: my sec***.");
}

#[test]
fn other_forms_of_a_secret_are_masked_too() {
    use base64::Engine as _;
    let value = "p@ss \"w0rd'/+\u{e9}\\x";
    let known = secrets(&[value]);
    let check = |what: &str, text: String| {
        let shown = known.mask(&text);
        assert!(shown.contains(MASK), "{what}: {text}");
        // What is left beside the mask tells less than one byte at either end.
        assert!(shown.len() <= MASK.len() + 10, "{what}: {shown}");
    };
    check("as it is", value.to_owned());
    check("json", serde_json::to_string(value).unwrap());
    check("url", "p%40ss%20%22w0rd%27%2F%2B%C3%A9%5Cx".to_owned());
    check("form", "p%40ss+%22w0rd%27%2F%2B%C3%A9%5Cx".to_owned());
    check("lower url", "p%40ss%20%22w0rd%27%2f%2b%c3%a9%5cx".to_owned());
    check("shell", format!("'{}'", value.replace('\'', r"'\''")));
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    check("hex", hex.clone());
    check("upper hex", hex.to_uppercase());
    for before in ["", "u", "us", "use"] {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{before}{value}"));
        check("base64", text);
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("{before}{value}!"));
        check("base64 for URLs", text);
    }
}

#[test]
fn a_key_of_several_lines_is_masked_line_by_line() {
    let key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQC7VJTU\nxy==\n-----END PRIVATE KEY-----\n";
    let known = secrets(&[key]);
    assert_eq!(known.mask(key), "***\n");
    assert_eq!(known.mask(&key.replace('\n', "\r\n")), "***\r\n");
    let shown: Vec<_> = key.lines().map(|line| known.mask(&format!("> {line}")).into_owned()).collect();
    let begin = "> -----BEGIN PRIVATE KEY-----";
    assert_eq!(shown, [begin, "> ***", "> ***", "> xy==", "> -----END PRIVATE KEY-----"]);
}

#[test]
fn names_decide_which_variables_are_secret() {
    for name in [
        "HF_TOKEN",
        "DB_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "OPENAI_API_KEY",
        "token",
        "STRIPE_APIKEY",
        "SENTRY_DSN",
        "PGPASS",
        "SSH_PRIVATE_KEY_B64",
        "DJANGO_SECRET_KEY",
    ] {
        assert_eq!(is_secret_name(name), name != "PGPASS", "{name}");
    }
    for name in ["PATH", "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEYBOARD", "COMPASS", "AUTHOR", "MONKEY"] {
        assert!(!is_secret_name(name), "{name}");
    }
}

#[test]
fn ordinary_values_stay_and_what_cannot_be_hidden_is_said_by_name() {
    let builder = SecretsBuilder::default()
        .variable("DEBUG", "true")
        .variable("PORT", "8080")
        .variable("DATABASE_URL", "postgres://app:s3cr3t-pw@localhost/db")
        .variable("API_TOKEN", "abc")
        .variable("EMPTY_TOKEN", " ")
        .variable("USE_TOKEN", "True");
    let (known, unmasked) = builder.build();
    assert_eq!(
        known.mask("true 8080 abc postgres://app:s3cr3t-pw@localhost/db"),
        "true 8080 abc postgres://app:***@localhost/db"
    );
    let texts: Vec<String> = unmasked.iter().map(Unmasked::text).collect();
    assert_eq!(
        texts,
        [
            "the value of API_TOKEN is shorter than 4 bytes: it is not hidden in output",
            "the value of USE_TOKEN is a common word: it is not hidden in output",
        ]
    );
    assert_eq!(format!("{known:?}"), "Secrets(…)");
}

#[test]
fn without_secrets_nothing_changes() {
    let (known, _) = SecretsBuilder::default().build();
    assert!(known.is_empty());
    assert_eq!(in_two(&known, b"anything \xff\0", 3, true), b"anything \xff\0");
}

/// The same by looking at the whole at once.
fn by_hand(patterns: &[String], text: &str) -> String {
    let mut covered: Vec<(usize, usize)> = Vec::new();
    for pattern in patterns {
        let starts = (0..text.len()).filter(|at| text[*at..].starts_with(pattern.as_str()));
        covered.extend(starts.map(|at| (at, at + pattern.len())));
    }
    covered.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (start, end) in covered {
        match merged.last_mut() {
            Some(last) if start < last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    let mut shown = String::new();
    let mut at = 0;
    for (start, end) in merged {
        shown.push_str(&text[at..start]);
        shown.push_str(MASK);
        at = end;
    }
    shown + &text[at..]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Few letters, so that secrets overlap, contain and follow one another.
    #[test]
    fn chunks_change_nothing(
        patterns in proptest::collection::vec("[ab]{4,7}", 1..5),
        text in "[ab]{0,40}",
        cuts in proptest::collection::vec(0..40_usize, 0..6),
    ) {
        let values: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let known = secrets(&values);
        let expect = by_hand(&patterns, &text);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.sort_unstable();
        cuts.push(text.len());
        let mut masker = Masker::new(&known);
        let (mut out, mut at) = (Vec::new(), 0);
        for cut in cuts {
            masker.push(&text.as_bytes()[at..cut], &mut out);
            at = cut;
        }
        masker.finish(&mut out);
        prop_assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    /// A flush shows the beginning of a secret at most: never the secret, and never its end as well.
    #[test]
    fn a_flush_never_shows_a_whole_secret(
        pattern in "[a-z]{4,12}",
        before in "[A-Z]{0,5}",
        after in "[A-Z]{0,5}",
        cut in 0..22_usize,
    ) {
        let text = format!("{before}{pattern}{after}");
        let cut = cut.min(text.len());
        let shown = String::from_utf8(in_two(&secrets(&[&pattern]), text.as_bytes(), cut, true)).unwrap();
        let seen = cut.saturating_sub(before.len());
        let expect = if seen < pattern.len() {
            format!("{before}{}{MASK}{after}", &pattern[..seen])
        } else {
            format!("{before}{MASK}{after}")
        };
        prop_assert_eq!(shown, expect);
    }
}

//! File names that usually hold secrets.
//!
//! A list of names, not a scanner of contents: it decides what is said aloud, and what a wildcard does not send.

const NAMES: [&str; 16] = [
    ".env",
    ".netrc",
    "_netrc",
    ".pypirc",
    ".pgpass",
    ".git-credentials",
    ".htpasswd",
    ".vault-token",
    ".modal.toml",
    "credentials.json",
    "service-account.json",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "secrets.toml",
];

const ENDINGS: [&str; 8] = ["pem", "key", "p12", "pfx", "jks", "keystore", "kdbx", "ppk"];

/// `.env.example` and the like are written to be shared.
const SHARED_ENV: [&str; 5] = ["example", "sample", "template", "dist", "defaults"];

/// Whether a file of this name (the last part of its path) usually holds a secret.
///
/// Asked for every file of a tree, so it does not allocate.
pub(super) fn looks_secret(name: &str) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    if NAMES.into_iter().any(is) {
        return true;
    }
    if name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(".env.")) {
        let shared = |part: &str| SHARED_ENV.into_iter().any(|shared| shared.eq_ignore_ascii_case(part));
        return !name[5..].split('.').any(shared);
    }
    let (stem, ending) = name.rsplit_once('.').unwrap_or_default();
    !stem.is_empty() && ENDINGS.into_iter().any(|secret| secret.eq_ignore_ascii_case(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names() {
        for name in [".env", ".env.local", ".env.production", "server.PEM", "id_rsa", "tls.key", ".netrc"] {
            assert!(looks_secret(name), "{name}");
        }
        for name in
            [".env.example", ".env.sample.local", "environment", "key", ".key", "id_rsa.pub", "monkey.py"]
        {
            assert!(!looks_secret(name), "{name}");
        }
    }
}

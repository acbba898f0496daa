//! How accel introduces itself to the control plane.
//!
//! The server may refuse or warn by client version, so the version is that of the official release whose requests
//! accel sends; it moves only together with the recorded requests.

use std::collections::BTreeMap;

use super::settings::{Credentials, Secret};

/// The official release that accel's requests agree with.
pub const CLIENT_VERSION: &str = "1.6.4";
/// `CLIENT_TYPE_CLIENT`.
const CLIENT_TYPE: &str = "1";
/// The series that goes with it; the server wants one.
const PYTHON_VERSION: &str = "3.12.0";

/// The machine as `uname` names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub node: String,
    /// `Linux`, `macOS`.
    pub system: String,
    pub release: String,
    pub arch: String,
}

/// Headers of every call to the control plane, names in lower case; values are secret.
pub fn headers(
    credentials: &Credentials,
    machine: &Machine,
    overrides: &BTreeMap<String, String>,
) -> Vec<(String, Secret)> {
    let parts = [&machine.system, &machine.release, &machine.arch].map(|part| part.replace('-', "_"));
    let mut headers = BTreeMap::from([
        ("x-modal-client-version", CLIENT_VERSION.to_owned()),
        ("x-modal-client-type", CLIENT_TYPE.to_owned()),
        ("x-modal-python-version", PYTHON_VERSION.to_owned()),
        ("x-modal-node", quote(&machine.node)),
        ("x-modal-platform", quote(&parts.join("-"))),
    ]);
    match credentials {
        Credentials::Token { id, secret } => {
            headers.insert("x-modal-token-id", id.clone());
            headers.insert("x-modal-token-secret", secret.reveal().to_owned());
        }
        Credentials::OAuth { refresh_token, client_id, client_secret } => {
            headers.insert("x-modal-refresh-token", refresh_token.reveal().to_owned());
            headers.insert("x-modal-oauth-client-id", client_id.clone());
            headers.insert("x-modal-oauth-client-secret", client_secret.reveal().to_owned());
        }
    }
    headers.extend(overrides.iter().map(|(name, value)| (name.as_str(), value.clone())));
    headers.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value))).collect()
}

/// Percent-encoding as Python's `urllib.parse.quote`.
fn quote(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-~/".contains(&byte);
    text.bytes()
        .map(|byte| if safe(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The reverse, for warnings of the server; bytes that are no UTF-8 are replaced.
pub fn unquote(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (_, at) = (plain.push(byte), at + 3),
            None => (_, at) = (plain.push(bytes[at]), at + 1),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_are_those_of_the_official_client() {
        let credentials = Credentials::Token { id: "ak-1".into(), secret: Secret::new("as-1") };
        let machine = Machine {
            node: "my host".into(),
            system: "Linux".into(),
            release: "6.1.0-12-amd64".into(),
            arch: "x86_64".into(),
        };
        let overrides = BTreeMap::from([("x-modal-client-type".to_owned(), "9".to_owned())]);
        let headers = headers(&credentials, &machine, &overrides);
        let shown: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.reveal())).collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        x-modal-client-type: 9
        x-modal-client-version: 1.6.4
        x-modal-node: my%20host
        x-modal-platform: Linux-6.1.0_12_amd64-x86_64
        x-modal-python-version: 3.12.0
        x-modal-token-id: ak-1
        x-modal-token-secret: as-1
        ");
        assert!(!format!("{headers:?}").contains("as-1"));
    }

    #[test]
    fn quoting_goes_both_ways() {
        for text in ["", "a b", "100%", "ü/ä", "%zz"] {
            assert_eq!(unquote(&quote(text)), text);
        }
        assert_eq!(unquote("50%25%20off%2"), "50% off%2");
    }

    proptest! {
        #[test]
        fn any_text_survives_a_header_and_any_header_is_a_text(text in "(?s).{0,40}", header in "(%[0-9a-fA-Fx+é]{0,2}|.){0,20}") {
            prop_assert_eq!(unquote(&quote(&text)), text);
            unquote(&header);
        }
    }
}

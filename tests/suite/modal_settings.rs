//! Modal's settings file and variables mean what they mean to the official SDK.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use accel::backend::modal::settings::{Credentials, Settings, SettingsError, ThrottleLimit, config_path};

use crate::python;

const TOKENS: &str = "token_id = 'ak-1'\ntoken_secret = 'as-very-secret'\n";

/// A file and variables.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const CASES: [Case; 24] = [
    ("nothing", "", &[]),
    ("one profile named default", "[default]\ntoken_id='ak-1'\ntoken_secret='as-1'\n", &[]),
    ("one profile of another name, not active", "[work]\ntoken_id='ak-1'\ntoken_secret='as-1'\n", &[]),
    ("active profile", "[a]\ntoken_id='ak-a'\ntoken_secret='as-a'\nactive=true\n[b]\ntoken_id='ak-b'\n", &[]),
    (
        "active by variable",
        "[a]\nactive=true\n[b]\ntoken_id='ak-b'\ntoken_secret='s'\n",
        &[("MODAL_PROFILE", "b")],
    ),
    (
        "empty profile variable",
        "[a]\nactive=true\ntoken_id='ak-a'\ntoken_secret='s'\n",
        &[("MODAL_PROFILE", "")],
    ),
    ("two active", "[a]\nactive=true\n[b]\nactive=true\n", &[]),
    ("none of two active", "[a]\n[b]\n", &[]),
    ("none active but named", "[a]\nenvironment='x'\n[b]\n", &[("MODAL_PROFILE", "a")]),
    ("key outside of a profile", "token_id='ak-1'\n", &[]),
    ("broken", "[a\n", &[]),
    ("variables win", "[default]\nenvironment='file'\n", &[("MODAL_ENVIRONMENT", "variable")]),
    (
        "empty variable wins",
        "[default]\nserver_url='http://f'\nsandbox_v2=true\n",
        &[("MODAL_SANDBOX_V2", "")],
    ),
    ("credentials by variable", "", &[("MODAL_TOKEN_ID", "ak-v"), ("MODAL_TOKEN_SECRET", "as-v")]),
    ("half credentials", "", &[("MODAL_TOKEN_ID", "ak-v")]),
    ("booleans of the file", "[default]\nforce_build=true\nignore_cache='FALSE'\nsandbox_v2=0\n", &[]),
    (
        "booleans of variables",
        "",
        &[("MODAL_FORCE_BUILD", "yes"), ("MODAL_IGNORE_CACHE", "0"), ("MODAL_SANDBOX_V2", "False")],
    ),
    ("throttle 0 as text", "", &[("MODAL_MAX_THROTTLE_WAIT", "0")]),
    ("throttle 0 as number", "[default]\nmax_throttle_wait=0\n", &[]),
    ("throttle", "[default]\nmax_throttle_wait=30\n", &[]),
    ("throttle of nonsense", "", &[("MODAL_MAX_THROTTLE_WAIT", "soon")]),
    ("validation", "[default]\nbuild_validation='WARN'\n", &[("MODAL_IMAGE_BUILDER_VERSION", "2025.06")]),
    ("validation of nonsense", "", &[("MODAL_BUILD_VALIDATION", "maybe")]),
    ("headers", "", &[("MODAL_OVERRIDE_HEADERS", "X-A: 1 ,x-b:c:d"), ("MODAL_DISABLE_API_PROXY", "1")]),
];

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(file: &str, pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::load(Path::new("modal.toml"), Some(file), &variables(pairs))
}

/// What both sides print for a case; `error` for a refusal.
fn ours(file: &str, pairs: &[(&str, &str)]) -> String {
    let Ok(settings) = load(file, pairs) else { return "error".to_owned() };
    let token = match &settings.credentials {
        Some(Credentials::Token { id, secret }) => format!("{id}/{}", secret.reveal()),
        Some(Credentials::OAuth { .. }) => "oauth".to_owned(),
        None => "none".to_owned(),
    };
    let throttle = match settings.throttle {
        ThrottleLimit::Unlimited => "None".to_owned(),
        ThrottleLimit::Never => "0".to_owned(),
        ThrottleLimit::AtMost(limit) => limit.as_secs().to_string(),
    };
    let headers: Vec<_> =
        settings.override_headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    [
        settings.profile,
        token,
        settings.server_url,
        settings.environment.unwrap_or_default(),
        settings.image_builder_version.unwrap_or_default(),
        settings.build.force_build.to_string(),
        settings.build.ignore_cache.to_string(),
        settings.sandbox_v2.to_string(),
        throttle,
        format!("{:?}", settings.build_validation).to_lowercase(),
        settings.disable_api_proxy.to_string(),
        headers.join(","),
    ]
    .join("|")
}

/// The same words from the official SDK.
const OFFICIAL: &str = r"
try:
    from modal.config import config, _profile, _check_config
    _check_config()
    token = 'none'
    if config['token_id'] and config['token_secret']:
        token = config['token_id'] + '/' + config['token_secret']
    headers = {name.lower(): value for name, value in (config['override_headers'] or {}).items()}
    flag = lambda key: str(config[key]).lower()
    print('|'.join([
        _profile, token, config['server_url'], config['environment'] or '', config['image_builder_version'] or '',
        flag('force_build'), flag('ignore_cache'), flag('sandbox_v2'), str(config['max_throttle_wait']),
        config['build_validation'], flag('disable_api_proxy'), ','.join(f'{n}={v}' for n, v in sorted(headers.items())),
    ]))
except Exception as error:
    print('error')
";

#[test]
fn every_case_reads_as_in_the_official_sdk() {
    let Some(interpreter) = python::with_modal() else { return };
    let folder = tempfile::tempdir().unwrap();
    let children: Vec<_> = CASES
        .iter()
        .enumerate()
        .map(|(index, (_, file, pairs))| {
            let path = folder.path().join(format!("{index}.toml"));
            std::fs::write(&path, file).unwrap();
            let mut command = Command::new(&interpreter);
            command.args(["-c", OFFICIAL]).env("MODAL_CONFIG_PATH", &path).envs(pairs.iter().copied());
            command.output().unwrap()
        })
        .collect();
    for ((name, file, pairs), output) in CASES.iter().zip(children) {
        let official = String::from_utf8_lossy(&output.stdout);
        let official = official.lines().last().unwrap_or_default();
        assert_eq!(ours(file, pairs), official, "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn errors_say_what_to_do() {
    let error = |file, pairs| {
        let error = load(file, pairs).unwrap_err();
        format!("{error}\n{}", error.help())
    };
    insta::assert_snapshot!(error("[a]\nactive=true\n[b]\nactive=true", &[]), @r#"
    modal.toml: more than one profile is active (a, b)
    leave `active = true` in one profile, or set MODAL_PROFILE
    "#);
    insta::assert_snapshot!(error("[a]\n[b]", &[]), @r#"
    modal.toml: none of the profiles is active (a, b)
    write `active = true` in one profile, or set MODAL_PROFILE
    "#);
    insta::assert_snapshot!(error("[a]\nactive=true", &[("MODAL_PROFILE", "c")]), @r#"
    Modal profile `c` does not exist in modal.toml
    choose one of a
    "#);
    insta::assert_snapshot!(error("token_id = 'ak-1'", &[]), @r#"
    modal.toml: `token_id` is outside of a profile
    put it below a `[name]` line
    "#);
    insta::assert_snapshot!(error("[a]\ntoken_secret = 'as-very-secret", &[]), @r#"
    modal.toml is not valid TOML: line 2
    correct the file, or make a new one with `modal token new`
    "#);
    insta::assert_snapshot!(error("", &[("MODAL_BUILD_VALIDATION", "maybe")]), @r#"
    build_validation cannot be "maybe"
    write error, warn or ignore
    "#);
    insta::assert_snapshot!(error("", &[("MODAL_TOKEN_ID", "a"), ("MODAL_OAUTH_CLIENT_ID", "b")]), @r#"
    both a Modal token and OAuth credentials are set
    unset MODAL_TOKEN_* or MODAL_OAUTH_*
    "#);
    let settings = load("", &[]).unwrap();
    let error = settings.require_credentials(Path::new("/home/me/.modal.toml")).unwrap_err();
    insta::assert_snapshot!(format!("{error}\n{}", error.help()), @r#"
    no Modal token
    set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run `modal token new`, which writes /home/me/.modal.toml
    "#);
}

#[test]
fn credentials_do_not_print() {
    let settings = load(&format!("[default]\n{TOKENS}"), &[]).unwrap();
    let printed = format!("{settings:?}");
    assert!(printed.contains("ak-1") && !printed.contains("very-secret"), "{printed}");
    let error = load(&format!("[default\n{TOKENS}"), &[]).unwrap_err();
    assert!(!format!("{error} {error:?} {}", error.help()).contains("very-secret"));
}

#[test]
fn the_file_is_where_the_variable_says() {
    let at = |pairs| config_path(Path::new("/home/me"), &variables(pairs));
    assert_eq!(at(&[]), Path::new("/home/me/.modal.toml"));
    assert_eq!(at(&[("MODAL_CONFIG_PATH", "")]), Path::new("/home/me/.modal.toml"));
    assert_eq!(at(&[("MODAL_CONFIG_PATH", "/x/y.toml")]), Path::new("/x/y.toml"));
}

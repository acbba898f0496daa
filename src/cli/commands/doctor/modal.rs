//! Modal's part of `accel doctor`: credentials, the way to the servers, the account behind them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Finding;
use crate::backend::modal::clock::SystemClock;
use crate::backend::modal::error::{ErrorKind, ModalError};
use crate::backend::modal::probe::{AccountReport, NotReady, Probe, Report, knows_builder};
use crate::backend::modal::settings::{Settings, SettingsError};
use crate::cli::account;
use crate::cli::ambient::Ambient;
use crate::net::{NetworkSettings, SystemRoots, credentials};

/// A clock that is further off makes tokens seem to live longer or shorter than they do.
const CLOCK_TOLERANCE: u64 = 30;

/// `environment` is that of accel.toml.
pub(super) async fn findings(ambient: &Ambient, environment: Option<&str>) -> Vec<Finding> {
    let variables = ambient.variables.texts();
    let (path, settings) = account::load(&variables);
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return vec![Finding::fail("modal", error.to_string(), error.help())],
    };
    let Ok(credentials) = settings.require_credentials(&path) else {
        return vec![half_set_up(&variables).unwrap_or_else(|| not_set_up(&path))];
    };
    let network = ambient.network();
    let mut findings = vec![token(&path, &settings, &variables)];
    findings.extend(way(&settings, &network));
    let probe = Probe {
        settings: &settings,
        credentials,
        environment,
        network: &network,
        machine: &account::machine(),
        clock: Arc::new(SystemClock),
    };
    let report = probe.report().await;
    findings.extend(servers(&report));
    if let Some(account) = &report.account {
        findings.extend(of_account(account, environment.or(settings.environment.as_deref())));
    }
    findings
}

/// No account is needed for local jobs, so this is no fault.
fn not_set_up(path: &Path) -> Finding {
    let help = SettingsError::NoCredentials { path: path.to_owned() }.help();
    Finding::ok("modal", format!("no token, so jobs run on this machine only; to use Modal, {help}"))
}

fn half_set_up(variables: &BTreeMap<String, String>) -> Option<Finding> {
    let set = |name: &str| variables.get(name).is_some_and(|value| !value.is_empty());
    let (there, missing) = match (set("MODAL_TOKEN_ID"), set("MODAL_TOKEN_SECRET")) {
        (true, false) => ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"),
        (false, true) => ("MODAL_TOKEN_SECRET", "MODAL_TOKEN_ID"),
        _ => return None,
    };
    let found = format!("{there} is set and {missing} is not");
    Some(Finding::fail("modal token", found, format!("set {missing} too, or unset {there}")))
}

/// Where the token comes from; never the token.
fn token(path: &Path, settings: &Settings, variables: &BTreeMap<String, String>) -> Finding {
    let set = |name: &&str| variables.contains_key(*name);
    let names =
        ["MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "MODAL_OAUTH_REFRESH_TOKEN", "MODAL_OAUTH_CLIENT_ID"];
    let from: Vec<&str> = names.into_iter().filter(set).collect();
    let profile = format!("profile `{}` of {}", settings.profile, path.display());
    let found = match from.as_slice() {
        [] => profile,
        [one] => format!("{one} and {profile}"),
        several => several.join(" and "),
    };
    Finding::ok("modal token", found)
}

/// Proxy and certificates, where they are not the usual ones.
fn way(settings: &Settings, network: &NetworkSettings) -> Option<Finding> {
    let proxies = [
        ("HTTPS_PROXY", &network.https_proxy),
        ("HTTP_PROXY", &network.http_proxy),
        ("ALL_PROXY", &network.all_proxy),
    ];
    let set = proxies.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let mut parts: Vec<String> = match settings.disable_api_proxy {
        true => set.map(|(name, _)| format!("{name} is ignored (MODAL_DISABLE_API_PROXY)")).collect(),
        false => set.map(|(name, value)| format!("{name}={}", shown_proxy(value))).collect(),
    };
    parts.extend(network.no_proxy.as_ref().map(|value| format!("NO_PROXY={value}")));
    let certificates =
        [("SSL_CERT_FILE", &network.certificate_file), ("SSL_CERT_DIR", &network.certificate_dir)];
    let set = certificates.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    parts.extend(set.map(|(name, path)| format!("{name}={}", path.display())));
    if network.system_roots == SystemRoots::Trusted {
        parts.push("ACCEL_SYSTEM_CERTS: the system's certificates are trusted too".to_owned());
    }
    (!parts.is_empty()).then(|| Finding::ok("modal network", parts.join(", ")))
}

/// Without the password that it may carry.
fn shown_proxy(value: &str) -> String {
    match value.rsplit_once('@') {
        Some((_, host)) if !value.contains("://") => host.to_owned(),
        _ => credentials::redact(value).into_owned(),
    }
}

fn servers(report: &Report) -> Vec<Finding> {
    let others_answer = report.servers.iter().any(|server| server.connected.is_ok());
    let finding = |server: &crate::backend::modal::probe::ServerReport| match &server.connected {
        Ok(took) => Finding::ok("modal server", format!("{} answers in {}", server.url, milliseconds(*took))),
        Err(why) if others_answer => {
            let remedy =
                "another server answers, so runs work; allow this one too if a firewall is in the way";
            Finding::warn("modal server", why.clone(), remedy)
        }
        Err(why) => Finding::fail(
            "modal server",
            why.clone(),
            "check the network, MODAL_SERVER_URL, HTTPS_PROXY and SSL_CERT_FILE; `--on local` works without",
        ),
    };
    report.servers.iter().map(finding).collect()
}

fn milliseconds(took: Duration) -> String {
    format!("{}ms", took.as_millis().max(1))
}

fn of_account(account: &AccountReport, environment: Option<&str>) -> Vec<Finding> {
    let mut findings = vec![workspace(account)];
    if account.ready.is_ok() {
        findings.push(builder(&account.builder, environment));
        findings.extend(account.clock_ahead.map(clock));
    }
    let remedy = "Modal says so; accel speaks the protocol of the official client and may need an update";
    findings.extend(account.warnings.iter().map(|text| Finding::warn("modal notice", text, remedy)));
    findings
}

fn workspace(account: &AccountReport) -> Finding {
    match &account.ready {
        Ok(()) => {
            let name = account.workspace.as_deref().unwrap_or("the credentials are accepted");
            Finding::ok("modal workspace", name)
        }
        Err(why @ NotReady::Refused(_)) => Finding::fail(
            "modal workspace",
            why.detail(),
            "make a new token with `modal token new`, or correct MODAL_TOKEN_ID and MODAL_TOKEN_SECRET",
        ),
        Err(why) => Finding::fail(
            "modal workspace",
            why.detail(),
            "try again; see status.modal.com if it persists, and check MODAL_SERVER_URL",
        ),
    }
}

fn builder(version: &Result<String, ModalError>, environment: Option<&str>) -> Finding {
    const SUBJECT: &str = "modal builder";
    let place = environment
        .map_or_else(|| "the default environment".to_owned(), |name| format!("environment {name}"));
    match version {
        Ok(version) => match knows_builder(version) {
            Ok(()) => Finding::ok(SUBJECT, format!("{version} in {place}")),
            Err(why) => Finding::warn(
                SUBJECT,
                format!("{why} ({place})"),
                "choose a version that accel knows with MODAL_IMAGE_BUILDER_VERSION, or update accel",
            ),
        },
        Err(error) if error.kind == ErrorKind::NotFound => Finding::fail(
            SUBJECT,
            format!("{place} does not exist"),
            "correct [modal] environment or MODAL_ENVIRONMENT, or make it with `modal environment create`",
        ),
        Err(error) => Finding::warn(SUBJECT, format!("unknown in {place}: {error}"), "try again"),
    }
}

fn clock(ahead: i64) -> Finding {
    let seconds = ahead.unsigned_abs();
    if seconds <= CLOCK_TOLERANCE {
        return Finding::ok("modal clock", "this machine and Modal agree on the time");
    }
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    Finding::warn(
        "modal clock",
        format!("{seconds} s {way} Modal's"),
        "set this machine's clock, for instance by NTP",
    )
}

//! Scripts of package.json, run by the package manager whose lock file is there.

use super::survey::{Files, FoundCommand};

/// Scripts that npm runs by itself around others.
const LIFECYCLE: [&str; 8] = [
    "preinstall",
    "install",
    "postinstall",
    "prepare",
    "prepublish",
    "prepublishOnly",
    "prepack",
    "postpack",
];

pub fn scripts(files: &mut Files<'_>) -> Vec<FoundCommand> {
    let Some(text) = files.read("package.json") else { return Vec::new() };
    let document: serde_json::Value = match serde_json::from_str(&text) {
        Ok(document) => document,
        Err(error) => {
            files.give_up_on("package.json", &error.to_string());
            return Vec::new();
        }
    };
    let manager = package_manager(files);
    let Some(scripts) = document.get("scripts").and_then(|scripts| scripts.as_object()) else {
        return Vec::new();
    };
    scripts
        .iter()
        .filter(|(name, _)| !LIFECYCLE.contains(&name.as_str()))
        .map(|(name, command)| FoundCommand {
            name: name.clone(),
            desc: command.as_str().map(str::to_owned),
            run: vec![manager.to_owned(), "run".to_owned(), name.clone()],
            source: "package.json",
        })
        .collect()
}

fn package_manager(files: &Files<'_>) -> &'static str {
    let locks =
        [("pnpm-lock.yaml", "pnpm"), ("yarn.lock", "yarn"), ("bun.lockb", "bun"), ("bun.lock", "bun")];
    locks.iter().find(|(lock, _)| files.has(lock)).map_or("npm", |(_, manager)| manager)
}

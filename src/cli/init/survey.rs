//! What a project folder holds that tells how it is built and tested. Reads; decides nothing.

use std::fs;
use std::path::Path;

use super::python::PythonProject;
use super::{package_json, recipes, taskfile, toolchains};

/// Files longer than this are no build descriptions.
const LARGEST_FILE: u64 = 1 << 20;

/// Something that can be run, and which file says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundCommand {
    pub name: String,
    pub desc: Option<String>,
    pub run: Vec<String>,
    /// The file, as shown in a comment.
    pub source: &'static str,
}

#[derive(Debug, Default)]
pub struct Survey {
    pub folder_name: String,
    pub python: Option<PythonProject>,
    pub commands: Vec<FoundCommand>,
    pub dockerfile: Option<String>,
    /// Files that are there but could not be understood, and why.
    pub not_understood: Vec<String>,
}

impl Survey {
    pub fn of(folder: &Path) -> Self {
        let mut files = Files { folder, not_understood: Vec::new() };
        let python = PythonProject::find(&mut files);
        let mut commands = Vec::new();
        commands.extend(package_json::scripts(&mut files));
        commands.extend(recipes::justfile(&files));
        commands.extend(taskfile::tasks(&mut files));
        commands.extend(recipes::makefile(&files));
        commands.extend(toolchains::commands(&files));
        Self {
            folder_name: folder
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            python,
            commands,
            dockerfile: files
                .first_of(&["Dockerfile", "Containerfile", "docker/Dockerfile"])
                .map(str::to_owned),
            not_understood: files.not_understood,
        }
    }
}

/// The folder being looked at.
pub struct Files<'a> {
    folder: &'a Path,
    pub not_understood: Vec<String>,
}

impl<'a> Files<'a> {
    pub fn has(&self, name: &str) -> bool {
        self.folder.join(name).exists()
    }

    pub fn first_of<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.folder.join(name).is_file())
    }

    /// The text of a file of sensible size; `None` when there is none.
    pub fn read(&self, name: &str) -> Option<String> {
        let path = self.folder.join(name);
        let readable = fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST_FILE);
        if !readable {
            return None;
        }
        fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn read_toml(&mut self, name: &str) -> Option<toml::Table> {
        let text = self.read(name)?;
        match text.parse::<toml::Table>() {
            Ok(table) => Some(table),
            Err(error) => {
                self.give_up_on(name, error.message());
                None
            }
        }
    }

    pub fn give_up_on(&mut self, name: &str, why: &str) {
        self.not_understood.push(format!("{name}: {}", why.lines().next().unwrap_or_default()));
    }

    /// Names in a folder, sorted.
    pub fn names_in(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.folder.join(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

//! Tasks of a Taskfile.

use serde_yaml::Value;

use super::survey::{Files, FoundCommand};

const NAMES: [&str; 4] = ["Taskfile.yml", "Taskfile.yaml", "taskfile.yml", "taskfile.yaml"];

pub fn tasks(files: &mut Files<'_>) -> Vec<FoundCommand> {
    let Some(name) = files.first_of(&NAMES) else { return Vec::new() };
    let Some(text) = files.read(name) else { return Vec::new() };
    let document: Value = match serde_yaml::from_str(&text) {
        Ok(document) => document,
        Err(error) => {
            files.give_up_on(name, &error.to_string());
            return Vec::new();
        }
    };
    let Some(tasks) = document.get("tasks").and_then(Value::as_mapping) else { return Vec::new() };
    tasks
        .iter()
        .filter(|(_, task)| task.get("internal").and_then(Value::as_bool) != Some(true))
        .filter_map(|(task_name, task)| Some((task_name.as_str()?, task)))
        // `build-*` and `:included` cannot be called by that name.
        .filter(|(task_name, _)| !task_name.contains('*'))
        .map(|(task_name, task)| FoundCommand {
            name: task_name.to_owned(),
            desc: task.get("desc").and_then(Value::as_str).map(str::to_owned),
            run: vec!["task".to_owned(), task_name.to_owned()],
            source: name,
        })
        .collect()
}

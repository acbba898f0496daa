//! YAML of a plan's view.

use serde_json::Value;

pub fn render(tree: &Value) -> String {
    serde_yaml::to_string(tree).expect("any JSON value is YAML")
}

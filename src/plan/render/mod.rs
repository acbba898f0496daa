//! A plan as text: TOML with the origin of every value beside it, or JSON or YAML of the same view.

mod image;
mod outlook;
mod toml;
mod view;
mod yaml;

use super::spec::Plan;

pub use outlook::{Foretold, ForetoldCost, Outlook};
pub use view::PlanView;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanFormat {
    Toml,
    Json,
    Yaml,
}

/// The whole plan, ending in a newline. Values of secrets and of dotenv files are not part of a plan and so never
/// shown.
pub fn render(plan: &Plan, outlook: &Outlook, format: PlanFormat) -> String {
    let view = PlanView::of(plan, outlook);
    let tree = serde_json::to_value(&view).expect("a view holds only texts, numbers and maps of them");
    match format {
        PlanFormat::Toml => toml::render(&tree),
        PlanFormat::Json => format!("{tree:#}\n"),
        PlanFormat::Yaml => yaml::render(&tree),
    }
}

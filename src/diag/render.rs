//! The one rendering of a diagnostic, in the shape of rustc's: file, line, column, caret, help.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::{Diagnostic, Location, Severity, SourceMap};

/// Whether a rendering may use colour; decided at the edge, from the terminal and `NO_COLOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorChoice {
    Plain,
    Ansi,
}

/// Renders one diagnostic as text without a final newline.
pub fn render(diagnostic: &Diagnostic, sources: &SourceMap, color: ColorChoice, width: usize) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut main = Group::with_title(level.primary_title(&diagnostic.message).id(diagnostic.code));
    if let Some(location) = diagnostic.location {
        main = main.element(snippet(sources, location, AnnotationKind::Primary, &diagnostic.label));
    }
    for (location, label) in &diagnostic.related {
        main = main.element(snippet(sources, *location, AnnotationKind::Context, label));
    }
    for help in &diagnostic.help {
        main = main.element(Level::HELP.message(help));
    }
    let renderer = match color {
        ColorChoice::Plain => Renderer::plain(),
        ColorChoice::Ansi => Renderer::styled(),
    };
    renderer.term_width(width).render(&[main]).to_string()
}

fn snippet<'a>(
    sources: &'a SourceMap,
    location: Location,
    kind: AnnotationKind,
    label: &'a str,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let source = sources.get(location.source);
    let annotation = kind.span(location.range());
    let annotation = if label.is_empty() { annotation } else { annotation.label(label) };
    Snippet::source(&*source.text).path(&source.name).annotation(annotation)
}

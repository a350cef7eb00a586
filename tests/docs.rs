//! The documents against the sources.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use larder::format::files::{FILES, RESTORING};

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The functions that follow `#[test]`, or tokio's, each as `fn name()` has it.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    for path in sources(&root.join("src")).into_iter().chain(sources(&root.join("tests"))) {
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace("#[tokio::test", "#[test]");
        for part in text.split("#[test]").skip(1) {
            let name = part.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
            names.extend(name.map(|(name, _)| name.to_owned()));
        }
    }
    names
}

#[test]
fn format_md_draws_every_file_that_a_store_may_have() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let text = std::fs::read_to_string(path).unwrap();
    let drawing = text.split("```").nth(1).unwrap();
    for name in FILES.iter().chain([&RESTORING]) {
        let drawn =
            drawing.lines().any(|line| line.split([' ', '/']).find(|word| !word.is_empty()) == Some(name));
        assert!(drawn, "{name} is not in:\n{drawing}");
    }
}

/// A type as its source has it, on one line and without comments.
fn shape(source: &str, name: &str) -> String {
    let at = |kind: &str| source.find(&format!("pub {kind} {name} {{\n"));
    let start = at("struct").or(at("enum")).unwrap_or_else(|| panic!("there is no {name}"));
    let lines = source[start..].lines().map(str::trim);
    let body = source[start..].lines().skip(1).position(|line| line == "}").unwrap();
    let fields = lines.skip(1).take(body).filter(|line| !line.starts_with("//") && !line.starts_with("#["));
    let fields = fields.map(|line| line.trim_start_matches("pub ")).collect::<Vec<_>>().join(" ");
    format!("{name} {{ {} }}", fields.replace(", }", " }").trim_end_matches(','))
}

#[test]
fn format_md_has_the_fields_of_all_records_in_their_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(root.join("src/format.rs")).unwrap();
    let text = std::fs::read_to_string(root.join("docs/format.md")).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // All that can be written, but for numbers and what only names others.
    let types =
        source.split("Serialize, Deserialize)]").skip(1).map(|rest| rest.split_once("\npub ").unwrap().1);
    let names = types.map(|rest| rest.split([' ', '(']).nth(1).unwrap());
    let records: Vec<&str> = names.filter(|name| !source.contains(&format!("pub struct {name}("))).collect();
    assert!(records.len() > 10, "{records:?}");
    for name in records {
        let shape = shape(&source, name);
        assert!(text.contains(&shape), "not in format.md: {shape}");
    }
}

#[test]
fn every_promise_of_semantics_md_names_tests_that_exist() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/semantics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let tests = tests();
    let mut promises = 0;
    // A promise is an item of a list; the tests stand behind it, each in backticks behind "Test:".
    for item in text.split("\n- ").skip(1) {
        let item = item.split("\n\n").next().unwrap();
        let (promise, named) = item.split_once("Test: ").unwrap_or_else(|| panic!("no test: {item}"));
        assert!(!promise.trim().is_empty());
        let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {item}");
        for name in named {
            assert!(tests.contains(name), "there is no test {name}, which stands behind: {promise}");
        }
        promises += 1;
    }
    assert!(promises > 20, "{promises} promises were found");
}

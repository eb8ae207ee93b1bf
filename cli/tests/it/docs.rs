//! What the program says of the documentation is true.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A heading as links name it: lower case, spaces as hyphens, nothing else but letters, digits and hyphens.
fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-');
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn headings(page: &Path) -> BTreeSet<String> {
    let text =
        fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let lines = text.lines().filter(|line| line.starts_with('#'));
    lines
        .map(|line| slug(line.trim_start_matches('#')))
        .collect()
}

/// Every `page#heading` behind `before` in a text.
fn references<'t>(text: &'t str, before: &str, ends: &[char]) -> Vec<(&'t str, &'t str)> {
    let found = text.match_indices(before);
    let rest = found.filter_map(|(at, _)| text[at + before.len()..].split(ends).next());
    rest.filter_map(|reference| reference.split_once('#'))
        .collect()
}

#[test]
fn every_anchor_is_a_heading() {
    let mut seen = 0;
    for entry in fs::read_dir(repository().join("cli/src/check")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for (page, heading) in references(&text, "\"docs/", &['"']) {
            let found = headings(&repository().join("docs").join(page));
            assert!(
                found.contains(heading),
                "docs/{page} has no heading #{heading}, only {found:?}"
            );
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    for name in ["install.md", "aws-vpc.md"] {
        let text = fs::read_to_string(repository().join("docs").join(name)).unwrap();
        for (page, heading) in references(&text, "](", &[')']) {
            let page = if page.is_empty() { name } else { page };
            let found = headings(&repository().join("docs").join(page));
            assert!(
                found.contains(heading),
                "{name} links to {page}#{heading}; there are {found:?}"
            );
        }
    }
}

/// A flag that a page shows is one that the program takes.
#[test]
fn commands_in_the_pages_are_commands() {
    use clap::CommandFactory as _;
    let command = halo_cli::cli::Cli::command();
    let mut seen = 0;
    for name in ["install.md", "aws-vpc.md"] {
        let text = fs::read_to_string(repository().join("docs").join(name))
            .unwrap()
            .replace("\\\n", " ");
        let shown = text
            .lines()
            .flat_map(|line| line.split('`'))
            .filter_map(|part| {
                let part = part.trim().trim_start_matches("$ ");
                part.strip_prefix("halo ")
                    .or_else(|| part.split_once(" -- ").map(|(_, rest)| rest))
            });
        for arguments in shown {
            let mut verb = &command;
            for word in arguments.split_whitespace() {
                if let Some(flag) = word.strip_prefix("--") {
                    let flag = flag.split('=').next().unwrap();
                    let known = verb
                        .get_arguments()
                        .any(|argument| argument.get_long() == Some(flag));
                    assert!(known, "{name}: halo {arguments}: no flag --{flag}");
                    seen += 1;
                } else if let Some(next) = verb.find_subcommand(word) {
                    verb = next;
                }
            }
        }
    }
    assert!(seen > 10, "{seen}");
}

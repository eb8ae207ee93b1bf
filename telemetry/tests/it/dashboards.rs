//! The dashboards as Grafana gets them.

use std::collections::BTreeSet;
use std::path::Path;

use halo_telemetry::reference::dashboard::{Dashboard, Draw};
use halo_telemetry::reference::{self, PANELS, RULES, rules};
use serde_json::Value;

fn boards() -> Vec<(Dashboard, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let groups = rules::read(&root.join(RULES)).unwrap();
    let boards: Vec<Dashboard> = reference::read(&root.join(PANELS)).unwrap();
    let boards: Vec<_> = boards
        .into_iter()
        .map(|board| {
            let made = serde_json::from_str(&board.json(&groups)).unwrap();
            (board, made)
        })
        .collect();
    assert!(boards.len() >= 2);
    boards
}

#[test]
fn every_panel_has_a_place_of_its_own_and_says_what_it_shows() {
    for (_, made) in boards() {
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in made["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{title}");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(cells.insert((x, y)), "{title} covers another panel");
                }
            }
            if panel["type"] != "row" {
                assert!(
                    !panel["description"].as_str().unwrap().is_empty(),
                    "{title}"
                );
                assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            }
        }
        let variables = made["templating"]["list"].as_array().unwrap();
        assert!(variables.iter().any(|one| one["name"] == "datasource"));
    }
}

#[test]
fn a_timeline_says_what_its_values_mean() {
    for (board, _) in boards() {
        for panel in board.rows.iter().flat_map(|row| &row.panels) {
            let timeline = panel.draw == Draw::Timeline;
            assert_eq!(panel.states.is_some(), timeline, "{}", panel.title);
        }
    }
}

/// Bars and alarms are of one range of time; what is drawn over time looks back as far as the width of a pixel and the scrapes need.
#[test]
fn rates_over_time_look_back_as_far_as_they_must() {
    for (board, _) in boards() {
        for panel in board.rows.iter().flat_map(|row| &row.panels) {
            for query in &panel.queries {
                for range in query.expr.split('[').skip(1) {
                    let range = range.split(']').next().unwrap();
                    let good = match panel.draw {
                        Draw::Bars => range == "$__range",
                        Draw::Alarm | Draw::Number => ["1h", "24h"].contains(&range),
                        Draw::Lines | Draw::Areas | Draw::Timeline => {
                            ["$__rate_interval", "1h"].contains(&range)
                        }
                    };
                    assert!(good, "{}: {range}", panel.title);
                }
            }
        }
    }
}

/// `X or vector(0)` is X and a series of 0 unless X has no labels: a number would be shown beside a zero.
#[test]
fn a_zero_stands_in_for_what_has_no_labels() {
    let mut seen = 0;
    for (board, _) in boards() {
        for panel in board.rows.iter().flat_map(|row| &row.panels) {
            for query in &panel.queries {
                let Some(left) = query.expr.strip_suffix(" or vector(0)") else {
                    assert!(!query.expr.contains("vector("), "{}", panel.title);
                    continue;
                };
                seen += 1;
                let plain = ["sum(", "max(", "count("];
                assert!(
                    plain.iter().any(|start| left.starts_with(start)) && left.ends_with(')'),
                    "{}",
                    panel.title
                );
            }
        }
    }
    assert!(seen > 0);
}

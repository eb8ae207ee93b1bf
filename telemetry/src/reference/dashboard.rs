//! Dashboards of Grafana, from tables of rows and panels in `telemetry/dashboards`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::catalogue::{Recorded, metrics_of, recorded};
use super::rules::Group;
use crate::metrics::COMPONENTS;

/// How a panel draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Draw {
    /// One number, green at zero and red above.
    Alarm,
    /// One number.
    Number,
    /// Lines over time.
    Lines,
    /// Areas over time, one upon the other.
    Areas,
    /// One bar a series, of the whole range of time that is shown.
    Bars,
    /// Coloured stretches over time, one line a series that is 0 or 1.
    Timeline,
}

/// What a panel asks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// PromQL.
    pub expr: String,
    /// The text of each series, with `{{label}}`.
    pub legend: String,
}

/// A panel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// How.
    pub draw: Draw,
    /// Grafana's name of the unit, such as `s`, `bytes`, `short`.
    pub unit: String,
    /// Columns of 24.
    pub width: u8,
    /// What the meaning of its metrics does not say by itself.
    #[serde(default)]
    pub about: Option<String>,
    /// What 0 and 1 of a timeline mean.
    #[serde(default)]
    pub states: Option<[String; 2]>,
    /// What it asks.
    pub queries: Vec<Query>,
}

/// A row.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What it is about.
    pub title: String,
    /// Its panels.
    pub panels: Vec<Panel>,
}

/// A dashboard.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    /// Its name in URLs and of its file.
    pub uid: String,
    /// Its title.
    pub title: String,
    /// Its rows.
    pub rows: Vec<Row>,
}

const COLUMNS: u8 = 24;
/// The chart's interval of scrapes: from it Grafana takes how far back a rate must look.
const SCRAPE: &str = "30s";

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

impl Panel {
    fn height(&self) -> u8 {
        match self.draw {
            Draw::Alarm | Draw::Number => 4,
            Draw::Lines | Draw::Areas | Draw::Bars | Draw::Timeline => 8,
        }
    }

    fn kind(&self) -> &'static str {
        match self.draw {
            Draw::Alarm | Draw::Number => "stat",
            Draw::Lines | Draw::Areas => "timeseries",
            Draw::Bars => "bargauge",
            Draw::Timeline => "state-timeline",
        }
    }

    /// What is said of it, and what each metric that it shows means, in the words of the list.
    fn description(&self, recorded: &Recorded) -> String {
        let shown: BTreeSet<_> = self
            .queries
            .iter()
            .flat_map(|query| metrics_of(&query.expr, recorded))
            .collect();
        let metrics = COMPONENTS.iter().flat_map(|component| component.metrics);
        let lines = metrics
            .filter(|metric| shown.contains(metric.name))
            .map(|metric| format!("- `{}`: {}", metric.name, metric.help));
        let lines: Vec<_> = self.about.iter().cloned().chain(lines).collect();
        lines.join("\n")
    }

    fn options(&self) -> Value {
        let legend =
            json!({"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": true});
        let tooltip = json!({"mode": "multi", "sort": "desc"});
        let last = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
        let number = |color: &str, graph: &str| {
            json!({
                "colorMode": color, "graphMode": graph, "justifyMode": "auto", "orientation": "auto", "reduceOptions": last,
                "showPercentChange": false, "textMode": "auto", "wideLayout": true,
            })
        };
        match self.draw {
            Draw::Alarm => number("background", "none"),
            Draw::Number => number("value", "area"),
            Draw::Lines | Draw::Areas => json!({"legend": legend, "tooltip": tooltip}),
            Draw::Bars => json!({
                "displayMode": "gradient", "namePlacement": "auto", "orientation": "horizontal", "reduceOptions": last,
                "showUnfilled": true, "sizing": "auto", "valueMode": "color",
            }),
            Draw::Timeline => json!({
                "alignValue": "center", "legend": legend, "mergeValues": true, "rowHeight": 0.9, "showValue": "auto", "tooltip": tooltip,
            }),
        }
    }

    fn json(&self, id: usize, x: u8, y: u16, description: &str) -> Value {
        let instant = self.draw == Draw::Bars;
        let targets: Vec<_> = self
            .queries
            .iter()
            .zip(b'A'..)
            .map(|(query, letter)| {
                json!({
                    "refId": char::from(letter).to_string(),
                    "datasource": source(),
                    "expr": query.expr,
                    "legendFormat": query.legend,
                    "instant": instant,
                    "range": !instant,
                })
            })
            .collect();
        let red = (self.draw == Draw::Alarm).then(|| json!({"color": "red", "value": 0.000_001}));
        let steps: Vec<_> = [Some(json!({"color": "green", "value": null})), red]
            .into_iter()
            .flatten()
            .collect();
        let custom = match self.draw {
            Draw::Areas => {
                json!({"axisSoftMin": 0, "fillOpacity": 60, "stacking": {"group": "A", "mode": "normal"}})
            }
            Draw::Lines => json!({"axisSoftMin": 0, "fillOpacity": 0}),
            Draw::Alarm | Draw::Number | Draw::Bars | Draw::Timeline => json!({}),
        };
        let mut defaults = json!({
            "unit": self.unit, "custom": custom, "thresholds": {"mode": "absolute", "steps": steps},
        });
        match &self.states {
            // Without colours of their own Grafana paints the highest value red.
            Some([no, yes]) => {
                defaults["mappings"] = json!([{"type": "value", "options": {
                    "0": {"text": no, "color": "orange", "index": 0}, "1": {"text": yes, "color": "green", "index": 1},
                }}]);
            }
            // Bars begin at zero.
            None if self.draw == Draw::Bars => defaults["min"] = json!(0),
            None => {}
        }
        json!({
            "id": id,
            "type": self.kind(),
            "title": self.title,
            "description": description,
            "interval": SCRAPE,
            "datasource": source(),
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height()},
            "targets": targets,
            "options": self.options(),
            "fieldConfig": {"defaults": defaults, "overrides": []},
        })
    }
}

impl Dashboard {
    /// The text of its file, for these rules.
    pub fn json(&self, groups: &[Group]) -> String {
        let recorded = recorded(groups);
        let (mut panels, mut y) = (Vec::new(), 0);
        for row in &self.rows {
            let id = panels.len() + 1;
            panels.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": false,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}, "panels": [],
            }));
            y += 1;
            let (mut x, mut height) = (0, 0);
            for panel in &row.panels {
                if x + panel.width > COLUMNS {
                    y += height;
                    (x, height) = (0, 0);
                }
                let description = panel.description(&recorded);
                panels.push(panel.json(panels.len() + 1, x, y, &description));
                x += panel.width;
                height = height.max(u16::from(panel.height()));
            }
            y += height;
        }
        let board = json!({
            "uid": self.uid,
            "title": self.title,
            "tags": ["halo"],
            "schemaVersion": 39,
            "editable": false,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]},
            // From one dashboard to the other.
            "links": [{
                "type": "dashboards", "tags": ["halo"], "title": "", "icon": "", "tooltip": "", "url": "", "asDropdown": false,
                "includeVars": true, "keepTime": true, "targetBlank": false,
            }],
            "panels": panels,
        });
        format!("{:#}\n", sorted(board))
    }
}

/// The same with the keys of every object in order, whether the library keeps them so or as they were set.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> = fields.into_iter().collect();
            let fields = fields.into_iter().map(|(key, value)| (key, sorted(value)));
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        plain => plain,
    }
}

//! Dashboards of Grafana, from tables of rows and panels in `telemetry/dashboards`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

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
    /// Coloured stretches over time, one line a series.
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

    fn json(&self, id: usize, x: u8, y: u16) -> Value {
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
            Draw::Areas => json!({"fillOpacity": 60, "stacking": {"mode": "normal"}}),
            Draw::Lines => json!({"fillOpacity": 0}),
            Draw::Alarm | Draw::Number | Draw::Bars | Draw::Timeline => json!({}),
        };
        json!({
            "id": id,
            "type": self.kind(),
            "title": self.title,
            "datasource": source(),
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height()},
            "targets": targets,
            "fieldConfig": {
                "defaults": {"unit": self.unit, "custom": custom, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}},
                "overrides": [],
            },
        })
    }
}

impl Dashboard {
    /// The text of its file.
    pub fn json(&self) -> String {
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
                panels.push(panel.json(panels.len() + 1, x, y));
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

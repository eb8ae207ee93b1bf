//! What was measured, as rows of the table.

use super::failover::Failover;
use super::limits::Limit;
use super::page::Histogram;
use super::proc::Memory;
use super::samples::ms;
use super::scale::{Scale, Steady};
use super::table::Row;
use super::wakes::Wakes;

/// As many tenants and substrates are the target's.
const TARGET_TENANTS: usize = 1000;

/// From a demand to its launch, with one or many at once.
pub fn wake(at_once: usize, wakes: &Wakes, limit: &Limit) -> Row {
    let how = match at_once {
        1 => "one at a time".to_owned(),
        many => format!("{many} at once"),
    };
    Row {
        figure: format!(
            "demand patched -> RunInstances received\n{how}, {} wakes",
            wakes.launch.len()
        ),
        measured: format!(
            "{}\nafter the patch was answered p99 {:.1} ms",
            wakes.launch.text(),
            ms(wakes.after_answer.quantile(0.99))
        ),
        value: ms(wakes.launch.quantile(0.99)),
        unit: "ms",
        target: Some(50.0),
        limit: format!(
            "bare client: patch p99 {:.1}, its watch event p99 {:.1} ms\n... and the record after it p50 {:.1}, p99 {:.1} ms",
            ms(limit.patch.quantile(0.99)),
            ms(limit.delivery.quantile(0.99)),
            ms(limit.recorded.quantile(0.5)),
            ms(limit.recorded.quantile(0.99)),
        ),
    }
}

/// From an event to its reconcile: the queue's own figure, and what a watch takes.
pub fn queue(figure: &str, waits: &Histogram, delivery: Option<&Limit>) -> Row {
    let bound = waits.at_most(0.99) * 1000.0;
    let delivered = delivery.map_or(0.0, |limit| ms(limit.delivery.quantile(0.99)));
    let (sum, limit) = match delivery {
        Some(_) => (
            format!("\nwith delivery p99 <= {:.1} ms", bound + delivered),
            format!("patch -> watch event p99 {delivered:.1} ms,\nwhich is in the sum"),
        ),
        None => (
            String::new(),
            "every key waits for the same API server".to_owned(),
        ),
    };
    Row {
        figure: format!(
            "event -> reconcile\n{figure}, {:.0} reconciles",
            waits.count()
        ),
        measured: format!(
            "queue p99 <= {bound:.1} ms, {:.2} % within 100 ms{sum}",
            100.0 * waits.share_within(0.1)
        ),
        value: bound + delivered,
        unit: "ms",
        target: delivery.map(|_| 100.0),
        limit,
    }
}

/// Many objects: time, memory, processor.
pub fn scale(count: usize, scale: &Scale, cores: usize) -> Vec<Row> {
    let target = |value: f64| (count >= TARGET_TENANTS).then_some(value);
    let [operator, api_server, etcd] = scale.cores;
    #[allow(clippy::cast_precision_loss, reason = "a machine has few cores")]
    let bound = scale.control_plane_seconds / cores as f64;
    vec![
        Row {
            figure: format!("{count} tenants + {count} substrates applied\n-> all Ready"),
            measured: format!(
                "{:.1} s, of which applying took {:.1} s\n{} requests of the operator, {} of the applying client",
                scale.took.as_secs_f64(),
                scale.applying.as_secs_f64(),
                scale.requests.values().sum::<usize>(),
                scale.own_requests
            ),
            value: scale.took.as_secs_f64(),
            unit: "s",
            target: target(120.0),
            limit: format!(
                "API server and etcd used {:.1} CPU s:\n{bound:.1} s on {cores} cores of their own",
                scale.control_plane_seconds
            ),
        },
        Row {
            figure: "... the operator's CPU on average".to_owned(),
            measured: format!("{operator:.2} cores"),
            value: operator,
            unit: "cores",
            target: target(0.5),
            limit: format!("API server {api_server:.2}, etcd {etcd:.2} cores"),
        },
    ]
}

/// Memory: the peak since the start, and when all was quiet. In order: when all was applied, when all was quiet, after all wakes.
pub fn memory(applied: Memory, after: Memory, woken: Memory, count: usize) -> Row {
    let peak = mb(woken.peak);
    Row {
        figure: format!("operator RSS\nwith {count} tenants and substrates"),
        measured: format!(
            "peak {peak:.1} MB with all wakes\npeak {:.1} MB while applied, {:.1} MB when quiet again",
            mb(applied.peak),
            mb(after.now)
        ),
        value: peak,
        unit: "MB",
        target: (count >= TARGET_TENANTS).then_some(120.0),
        limit: "-".to_owned(),
    }
}

#[allow(clippy::cast_precision_loss, reason = "memory of a machine of today")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Nothing happens.
pub fn steady(seconds: u64, steady: &Steady) -> Vec<Row> {
    let mut asked: Vec<String> = steady
        .requests
        .iter()
        .map(|request| format!("{} {}", request.verb, request.uri))
        .collect();
    asked.truncate(5);
    let asked = if asked.is_empty() {
        String::new()
    } else {
        format!(" ({}...)", asked.join(", "))
    };
    #[allow(clippy::cast_precision_loss, reason = "few requests")]
    let count = steady.requests.len() as f64;
    vec![
        Row {
            figure: format!("steady state\nrequests in {seconds} s beside the lease"),
            measured: format!("{count}{asked}"),
            value: count,
            unit: "",
            target: Some(0.0),
            limit: format!(
                "{} for the lease, {} watches begun again,\n{} calls of the cloud",
                steady.lease, steady.watches, steady.cloud
            ),
        },
        Row {
            figure: "... the operator's CPU".to_owned(),
            measured: format!("{:.4} cores", steady.cores[0]),
            value: steady.cores[0],
            unit: "cores",
            target: None,
            limit: format!("API server {:.4} cores", steady.cores[1]),
        },
    ]
}

/// The leader is killed.
pub fn failover(rounds: usize, failover: &Failover) -> Vec<Row> {
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let first = &failover.first_write;
    #[allow(clippy::cast_precision_loss, reason = "few launches")]
    let doubled = failover.doubled as f64;
    vec![
        Row {
            figure: format!(
                "leader killed -> the other's first write\nbeside the lease, {rounds} rounds"
            ),
            measured: format!(
                "p50 {:.1}, max {:.1} s\nthe last launch that waited max {:.1} s",
                seconds(first.quantile(0.5)),
                seconds(first.max()),
                seconds(failover.last_launch.max())
            ),
            value: seconds(first.max()),
            unit: "s",
            target: Some(20.0),
            limit: format!(
                "the lease changed hands after\np50 {:.1}, max {:.1} s",
                seconds(failover.lease.quantile(0.5)),
                seconds(failover.lease.max())
            ),
        },
        Row {
            figure: "... substrates that were launched for twice".to_owned(),
            measured: format!(
                "{doubled} of {} wakes\n{} instances, {} by the leaders that were killed",
                failover.wakes, failover.instances, failover.launched_before
            ),
            value: doubled,
            unit: "",
            target: Some(0.0),
            limit: "-".to_owned(),
        },
    ]
}

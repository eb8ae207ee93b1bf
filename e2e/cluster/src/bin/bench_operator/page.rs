//! The operator's page of figures, read as Prometheus reads it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A page's body; an error unless the status is 200.
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of headers")?;
    if head.split_whitespace().nth(1) != Some("200") {
        bail!("{path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// The sum of all samples of a metric whose labels contain all of these, such as `name="tenant"`.
pub fn sum(page: &str, metric: &str, labels: &[&str]) -> f64 {
    samples(page, metric, labels).map(|(_, value)| value).sum()
}

/// Labels and value of each sample of a metric whose labels contain all of these.
fn samples<'a>(
    page: &'a str,
    metric: &'a str,
    labels: &'a [&'a str],
) -> impl Iterator<Item = (&'a str, f64)> {
    page.lines().filter_map(move |line| {
        let rest = line.strip_prefix(metric)?;
        let (found, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let all = labels.iter().all(|label| found.contains(label));
        all.then_some((found, value.trim().parse().ok()?))
    })
}

/// A histogram: how many observations were at most so long, by limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    /// The sum of all histograms of a metric whose labels contain all of these.
    pub fn read(page: &str, metric: &str, labels: &[&str]) -> Self {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (found, value) in samples(page, &format!("{metric}_bucket"), labels) {
            let Some(limit) = label(found, "le").and_then(|text| match text {
                "+Inf" => Some(f64::INFINITY),
                text => text.parse().ok(),
            }) else {
                continue;
            };
            match buckets.iter_mut().find(|(known, _)| *known == limit) {
                Some((_, sum)) => *sum += value,
                None => buckets.push((limit, value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self(buckets)
    }

    /// What came since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let old = |limit: f64| {
            let known = before.0.iter().find(|(known, _)| *known == limit);
            known.map_or(0.0, |(_, count)| *count)
        };
        let new = self.0.iter().map(|(le, count)| (*le, count - old(*le)));
        Self(new.collect())
    }

    /// How many observations there are.
    pub fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The limit of the bucket in which this share of all observations is reached: an upper bound, in the metric's unit.
    pub fn at_most(&self, share: f64) -> f64 {
        let wanted = self.count() * share;
        let reached = self.0.iter().find(|(_, count)| *count >= wanted);
        reached.map_or(0.0, |(limit, _)| *limit)
    }

    /// The share of observations that were no longer than a bucket's limit.
    pub fn share_within(&self, limit: f64) -> f64 {
        let within = self.0.iter().rev().find(|(known, _)| *known <= limit);
        within.map_or(0.0, |(_, count)| count / self.count().max(1.0))
    }
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let value = pair.strip_prefix(name)?.strip_prefix("=\"")?;
        value.strip_suffix('"')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP d x\n\
        d_bucket{name=\"a\",le=\"0.1\"} 5\nd_bucket{name=\"a\",le=\"1\"} 9\nd_bucket{name=\"a\",le=\"+Inf\"} 10\n\
        d_bucket{name=\"b\",le=\"0.1\"} 90\nd_bucket{name=\"b\",le=\"1\"} 90\nd_bucket{name=\"b\",le=\"+Inf\"} 90\n\
        d_sum{name=\"a\"} 3\nplain 7\nplainer 8\n";

    #[test]
    fn histograms() {
        let all = Histogram::read(PAGE, "d", &[]);
        assert_eq!(all.count(), 100.0);
        assert_eq!((all.at_most(0.95), all.at_most(0.99)), (0.1, 1.0));
        assert_eq!(all.share_within(0.5), 0.95);
        let one = Histogram::read(PAGE, "d", &["name=\"a\""]);
        assert_eq!((one.count(), one.at_most(0.5)), (10.0, 0.1));
        assert_eq!(one.at_most(1.0), f64::INFINITY);
        assert_eq!(all.since(&one).count(), 90.0);
        assert_eq!(Histogram::read(PAGE, "e", &[]).at_most(0.99), 0.0);
    }

    #[test]
    fn sums() {
        assert_eq!(sum(PAGE, "plain", &[]), 7.0);
        assert_eq!(sum(PAGE, "d_sum", &["name=\"a\""]), 3.0);
        assert_eq!(sum(PAGE, "d_sum", &["name=\"b\""]), 0.0);
    }
}

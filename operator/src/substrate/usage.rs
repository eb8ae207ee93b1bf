//! What nodes have used and cost. Money is counted in millionths of a dollar, so that nothing is lost by adding.

use std::collections::BTreeMap;

use halo_crds::status::Usage;

const MICRO: i64 = 1_000_000;

/// USD an hour of an instance type in millionths, from the pool's own prices or those that the operator knows.
fn price(
    instance_type: &str,
    own: &BTreeMap<String, String>,
    known: &BTreeMap<String, f64>,
) -> Option<i64> {
    if let Some(text) = own.get(instance_type) {
        return micro(text);
    }
    let price = known.get(instance_type)?;
    // Text that Rust writes of any finite number is read back, up to the sixth digit.
    micro(&format!("{price:.6}"))
}

/// Millionths of what a decimal number says; `None` if it is none or not positive.
fn micro(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 6 {
        return None;
    }
    let part: i64 = format!("{part:0<6}").parse().ok()?;
    whole
        .parse::<i64>()
        .ok()?
        .checked_mul(MICRO)?
        .checked_add(part)
}

/// As a person reads it: two digits after the point, and more only if they say something.
fn dollars(micro: i64) -> String {
    let text = format!("{}.{:06}", micro / MICRO, micro % MICRO);
    let keep = text.trim_end_matches('0').len();
    let least = text.len() - 4;
    text[..keep.max(least)].to_owned()
}

/// Seconds, and what they cost in USD.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// Seconds that instances ran.
    pub seconds: i64,
    /// USD in millionths.
    pub micro_usd: i64,
}

/// What was used, by the prices that are known; a type without a price costs nothing that could be told.
pub fn spent(
    used: &[(String, i64)],
    own: &BTreeMap<String, String>,
    known: &BTreeMap<String, f64>,
) -> Spent {
    let mut spent = Spent::default();
    for (instance_type, seconds) in used {
        let seconds = (*seconds).max(0);
        spent.seconds = spent.seconds.saturating_add(seconds);
        let hourly = price(instance_type, own, known).unwrap_or_default();
        let cost = i128::from(hourly) * i128::from(seconds) / 3600;
        spent.micro_usd = spent
            .micro_usd
            .saturating_add(i64::try_from(cost).unwrap_or(i64::MAX));
    }
    spent
}

/// The sum so far and what came to it.
pub fn add(before: Option<&Usage>, spent: Spent) -> Option<Usage> {
    if spent == Spent::default() {
        return before.cloned();
    }
    let (seconds, cost) = before.map_or((0, 0), |usage| {
        (
            usage.node_seconds,
            micro(&usage.estimated_cost_usd).unwrap_or_default(),
        )
    });
    Some(Usage {
        node_seconds: seconds.saturating_add(spent.seconds),
        estimated_cost_usd: dollars(cost.saturating_add(spent.micro_usd)),
    })
}

/// Seconds and USD that came to a sum.
#[allow(clippy::cast_precision_loss, reason = "a dashboard's figure")]
pub fn growth(before: Option<&Usage>, after: Option<&Usage>) -> (f64, f64) {
    let figures = |usage: Option<&Usage>| {
        usage.map_or((0, 0), |usage| {
            (
                usage.node_seconds,
                micro(&usage.estimated_cost_usd).unwrap_or_default(),
            )
        })
    };
    let (before, after) = (figures(before), figures(after));
    let more = |was: i64, is: i64| is.saturating_sub(was).max(0) as f64;
    (
        more(before.0, after.0),
        more(before.1, after.1) / MICRO as f64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn money_is_written_for_people() {
        for (micro, text) in [
            (0, "0.00"),
            (12_400_000, "12.40"),
            (24_800, "0.0248"),
            (1, "0.000001"),
            (5_000_000, "5.00"),
        ] {
            assert_eq!(dollars(micro), text);
        }
        for text in ["", "x", "-1", "1.", ".5", "1.0000001", "1e3"] {
            let expected = (text == "1.").then_some(MICRO);
            assert_eq!(super::micro(text), expected, "{text}");
        }
    }

    #[test]
    fn a_pools_own_price_counts_first() {
        let own = BTreeMap::from([("a".to_owned(), "1.488".to_owned())]);
        let known = BTreeMap::from([("a".to_owned(), 9.0), ("b".to_owned(), 0.5)]);
        let used = |name: &str| vec![(name.to_owned(), 3600)];
        assert_eq!(spent(&used("a"), &own, &known).micro_usd, 1_488_000);
        assert_eq!(spent(&used("b"), &own, &known).micro_usd, 500_000);
        let unknown = spent(&used("c"), &own, &known);
        assert_eq!((unknown.seconds, unknown.micro_usd), (3600, 0));
    }

    #[test]
    fn nothing_used_changes_nothing() {
        assert_eq!(add(None, Spent::default()), None);
        let before = Usage {
            node_seconds: 7,
            estimated_cost_usd: "0.5".to_owned(),
        };
        assert_eq!(add(Some(&before), Spent::default()), Some(before));
    }

    proptest! {
        #[test]
        fn many_short_runs_cost_as_much_as_their_sum(runs in proptest::collection::vec(0i64..5000, 1..40)) {
            let own = BTreeMap::from([("a".to_owned(), "3.6".to_owned())]);
            let mut usage = None;
            for seconds in &runs {
                let one = spent(&[("a".to_owned(), *seconds)], &own, &BTreeMap::new());
                usage = add(usage.as_ref(), one);
            }
            let total: i64 = runs.iter().sum();
            let usage = usage.unwrap_or_default();
            prop_assert_eq!(usage.node_seconds, total);
            prop_assert_eq!(micro(&usage.estimated_cost_usd).unwrap_or_default(), total * 1000);
        }
    }
}

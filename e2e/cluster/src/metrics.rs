//! The API server's own count of its requests.

use std::collections::BTreeMap;

/// What `apiserver_request_total` tells apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKind {
    /// The verb, in capitals: GET, LIST, WATCH, POST, PUT, PATCH, APPLY, DELETE, DELETECOLLECTION.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource, in the plural.
    pub resource: String,
    /// The subresource; empty for the object itself.
    pub subresource: String,
    /// The status code.
    pub code: String,
}

/// Sums the samples of `apiserver_request_total` in a metrics page.
pub(crate) fn request_counts(page: &str) -> BTreeMap<RequestKind, u64> {
    let mut counts = BTreeMap::new();
    for line in page.lines() {
        let Some((labels, value)) = line
            .strip_prefix("apiserver_request_total{")
            .and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        // No value of these labels holds a comma or a quote.
        let labels: BTreeMap<&str, &str> = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(name, value)| (name, value.trim_matches('"')))
            .collect();
        let label = |name: &str| labels.get(name).copied().unwrap_or_default().to_owned();
        let kind = RequestKind {
            verb: label("verb"),
            group: label("group"),
            resource: label("resource"),
            subresource: label("subresource"),
            code: label("code"),
        };
        // The text format writes large counts as 1.5e+06.
        let value: f64 = value.trim().parse().unwrap_or_default();
        *counts.entry(kind).or_default() += value as u64;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_that_differ_in_other_labels_are_summed() {
        let page = "# TYPE apiserver_request_total counter\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"apps\",resource=\"deployments\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 3\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"apps\",resource=\"deployments\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1.5e+06\n\
            apiserver_request_total{code=\"201\",group=\"\",resource=\"pods\",subresource=\"binding\",verb=\"POST\"} 1\n\
            apiserver_request_duration_seconds_count{verb=\"LIST\"} 9\n";
        let counts = request_counts(page);
        let seen: Vec<_> = counts
            .iter()
            .map(|(kind, count)| {
                (
                    kind.verb.as_str(),
                    kind.resource.as_str(),
                    kind.subresource.as_str(),
                    *count,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("LIST", "deployments", "", 1_500_003),
                ("POST", "pods", "binding", 1)
            ]
        );
    }
}

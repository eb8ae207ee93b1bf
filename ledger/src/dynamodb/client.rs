//! Requests to DynamoDB: time limits, a bounded number at once, attempts with full jitter, what was consumed, and errors with a
//! cause that a person can act on.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConsumedCapacity, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::backoff;
use super::item::Item;
use super::keys::{PK, SK};
use crate::{LedgerError, LedgerMetrics};

/// The most of the SDK's words in an error.
const WORDS: usize = 400;

/// What is known of AWS in this process: credentials, endpoint, HTTP client.
pub async fn environment(region: &str) -> SdkConfig {
    let defaults = aws_config::defaults(BehaviorVersion::latest());
    defaults.region(Region::new(region.to_owned())).load().await
}

/// The SDK's client, without attempts and time limits of its own but for connecting.
pub fn sdk(environment: &SdkConfig, connect: Duration) -> aws_sdk_dynamodb::Client {
    let limits = TimeoutConfig::builder().connect_timeout(connect).build();
    let config = Builder::from(environment)
        .retry_config(RetryConfig::disabled())
        .timeout_config(limits)
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// A table, as requests see it.
pub struct Client {
    sdk: aws_sdk_dynamodb::Client,
    table: String,
    /// `dynamodb:TABLE@REGION`, for messages.
    pub name: String,
    permits: Semaphore,
    /// For one attempt.
    attempt: Duration,
    metrics: Option<LedgerMetrics>,
    /// Whether the last request found nobody.
    away: AtomicBool,
}

/// What became of a conditional put.
pub enum Put {
    /// It was written.
    Written,
    /// This item stands there already.
    Stands(Box<Item>),
}

/// One page of a query.
#[derive(Default)]
pub struct Query<'a> {
    /// The index, if it is not the table.
    pub index: Option<&'a str>,
    /// The key's condition and its values.
    pub condition: &'a str,
    /// The values in it.
    pub values: Vec<(&'static str, String)>,
    /// Only these attributes.
    pub projection: Option<&'a str>,
    /// From the last item to the first.
    pub backward: bool,
    /// At most so many items.
    pub limit: Option<i32>,
}

impl<'a> Query<'a> {
    /// All items of a partition between two sort keys, both included.
    pub fn between(pk: &str, from: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            condition: "pk = :pk AND sk BETWEEN :from AND :to",
            values: vec![
                (":pk", pk.to_owned()),
                (":from", from.into()),
                (":to", to.into()),
            ],
            ..Self::default()
        }
    }

    /// The last item only.
    pub fn last(mut self) -> Self {
        (self.backward, self.limit) = (true, Some(1));
        self
    }

    /// Only these attributes.
    pub fn only(mut self, projection: &'a str) -> Self {
        self.projection = Some(projection);
        self
    }
}

/// Why an attempt failed.
enum Judged {
    /// Too many requests: another attempt may succeed.
    Throttled(String),
    /// Nobody answers, or with an error of its own: another attempt may succeed.
    Away(String),
    /// The condition does not hold.
    Condition,
    /// Another attempt would fail, too.
    Final(LedgerError),
}

/// A condition that does not hold, with the error that tells what stands there; or an error.
enum Failed<E> {
    Condition(Box<E>),
    Ledger(LedgerError),
}

impl<E> From<Failed<E>> for LedgerError {
    fn from(failed: Failed<E>) -> Self {
        match failed {
            Failed::Ledger(error) => error,
            Failed::Condition(_) => {
                LedgerError::Storage("a request without a condition failed by one".to_owned())
            }
        }
    }
}

/// Counts a request for as long as it lives.
struct Queued<'a>(Option<&'a LedgerMetrics>);

impl<'a> Queued<'a> {
    fn new(metrics: Option<&'a LedgerMetrics>) -> Self {
        if let Some(metrics) = metrics {
            metrics.queue.inc();
        }
        Self(metrics)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.0 {
            metrics.queue.dec();
        }
    }
}

impl Client {
    pub fn new(
        sdk: aws_sdk_dynamodb::Client,
        table: &str,
        name: String,
        options: &super::Options,
    ) -> Arc<Self> {
        Arc::new(Self {
            sdk,
            table: table.to_owned(),
            name,
            permits: Semaphore::new(options.requests.max(1)),
            attempt: options.attempt,
            metrics: options.metrics.clone(),
            away: AtomicBool::new(false),
        })
    }

    /// Whether the last request found nobody in time.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Puts an item if nothing stands under its key.
    pub async fn put(&self, item: Item, patience: Duration) -> Result<Put, LedgerError> {
        let key = |name| {
            item.get(name)
                .and_then(|key: &AttributeValue| key.as_s().ok())
        };
        let key = key(PK).cloned().zip(key(SK).cloned());
        let put = self
            .put_if(item, "attribute_not_exists(pk)", patience)
            .await?;
        match (put, key) {
            // An endpoint that does not tell what stands there.
            (Put::Stands(stands), Some((pk, sk))) if stands.is_empty() => {
                let stands = self.get(&pk, &sk, None, patience).await?;
                Ok(Put::Stands(Box::new(stands.unwrap_or_default())))
            }
            (put, _) => Ok(put),
        }
    }

    /// Puts an item if the condition holds for what stands under its key. What stands there is empty if nothing does.
    pub async fn put_if(
        &self,
        item: Item,
        condition: &str,
        patience: Duration,
    ) -> Result<Put, LedgerError> {
        let put = self.sdk.put_item().table_name(&self.table);
        let put = put
            .set_item(Some(item))
            .condition_expression(condition)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match self.call("put", patience, || put.clone().send()).await {
            Ok(output) => {
                self.consumed("put", output.consumed_capacity());
                Ok(Put::Written)
            }
            Err(Failed::Condition(error)) => {
                let stands = match *error {
                    PutItemError::ConditionalCheckFailedException(failed) => failed.item,
                    _ => None,
                };
                Ok(Put::Stands(Box::new(stands.unwrap_or_default())))
            }
            Err(Failed::Ledger(error)) => Err(error),
        }
    }

    /// Reads an item as it stands now.
    pub async fn get(
        &self,
        pk: &str,
        sk: &str,
        projection: Option<&str>,
        patience: Duration,
    ) -> Result<Option<Item>, LedgerError> {
        let get = self.sdk.get_item().table_name(&self.table);
        let get = get
            .key(PK, AttributeValue::S(pk.to_owned()))
            .key(SK, AttributeValue::S(sk.to_owned()))
            .set_projection_expression(projection.map(str::to_owned))
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let output = self.call("get", patience, || get.clone().send()).await?;
        self.consumed("get", output.consumed_capacity());
        Ok(output.item)
    }

    /// Reads items in their order, page by page until there are no more, or as many as the query's limit. The table is read as
    /// it stands at the time of each page; an index may lag behind it.
    pub async fn query(
        &self,
        query: Query<'_>,
        patience: Duration,
    ) -> Result<Vec<Item>, LedgerError> {
        let mut request = self.sdk.query().table_name(&self.table);
        for (name, value) in &query.values {
            request = request.expression_attribute_values(*name, AttributeValue::S(value.clone()));
        }
        request = request
            .set_index_name(query.index.map(str::to_owned))
            .key_condition_expression(query.condition)
            .set_projection_expression(query.projection.map(str::to_owned))
            .scan_index_forward(!query.backward)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        if query.index.is_none() {
            request = request.consistent_read(true);
        }
        let mut items: Vec<Item> = Vec::new();
        let mut start = None;
        loop {
            let read = i32::try_from(items.len()).unwrap_or(i32::MAX);
            let left = query.limit.map(|limit| limit.saturating_sub(read));
            if left.is_some_and(|left| left <= 0) {
                return Ok(items);
            }
            let page = request
                .clone()
                .set_limit(left)
                .set_exclusive_start_key(start.take());
            let output = self.call("query", patience, || page.clone().send()).await?;
            self.consumed("query", output.consumed_capacity());
            items.extend(output.items.unwrap_or_default());
            start = output.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                return Ok(items);
            }
        }
    }

    fn consumed(&self, operation: &str, consumed: Option<&ConsumedCapacity>) {
        let units = consumed.and_then(ConsumedCapacity::capacity_units);
        if let Some((metrics, units)) = self.metrics.as_ref().zip(units) {
            metrics.units.with_label_values(&[operation]).inc_by(units);
        }
    }

    /// Sends a request until it is answered or `patience` is over. Callers wait here for their turn: they are slowed, and what
    /// they hold is never given up for another's sake.
    async fn call<T, E, F>(
        &self,
        operation: &'static str,
        patience: Duration,
        send: impl Fn() -> F,
    ) -> Result<T, Failed<E>>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let _queued = Queued::new(self.metrics.as_ref());
        let deadline = Instant::now() + patience;
        let mut attempts = 0;
        loop {
            let reason = match self.attempt(deadline, send()).await {
                Ok(answer) => {
                    self.away.store(false, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(None) => "there was no answer in time".to_owned(),
                Err(Some(error)) => match judge(&self.name, &error) {
                    Judged::Condition => {
                        self.away.store(false, Ordering::Relaxed);
                        return Err(match error.into_service_error_or_none() {
                            Some(error) => Failed::Condition(Box::new(error)),
                            None => Failed::Ledger(LedgerError::Storage(self.name.clone())),
                        });
                    }
                    Judged::Final(error) => return Err(Failed::Ledger(error)),
                    Judged::Away(reason) => reason,
                    Judged::Throttled(reason) => {
                        if let Some(metrics) = &self.metrics {
                            metrics.throttles.with_label_values(&[operation]).inc();
                        }
                        reason
                    }
                },
            };
            let wait = backoff::wait(attempts, backoff::random());
            attempts += 1;
            if Instant::now() + wait >= deadline {
                self.away.store(true, Ordering::Relaxed);
                let name = &self.name;
                let waited = patience.as_secs_f64();
                let cause = format!("{name}: {reason}; {attempts} attempts in {waited:.1} s");
                return Err(Failed::Ledger(LedgerError::Unavailable(cause)));
            }
            tracing::debug!(operation, attempts, reason, "DynamoDB is asked again");
            tokio::time::sleep(wait).await;
        }
    }

    /// One attempt, when its turn has come; `None`: no answer in time.
    async fn attempt<T, E>(
        &self,
        deadline: Instant,
        send: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, Option<SdkError<E>>> {
        // The semaphore is never closed.
        let turn = timeout_at(deadline, self.permits.acquire()).await;
        let _permit = turn.map_err(|_| None)?;
        let limit = deadline.min(Instant::now() + self.attempt);
        match timeout_at(limit, send).await {
            Ok(answer) => answer.map_err(Some),
            Err(_) => Err(None),
        }
    }
}

/// The service's own error in an SDK's error.
trait IntoServiceError<E> {
    fn into_service_error_or_none(self) -> Option<E>;
}

impl<E> IntoServiceError<E> for SdkError<E> {
    fn into_service_error_or_none(self) -> Option<E> {
        match self {
            SdkError::ServiceError(context) => Some(context.into_err()),
            _ => None,
        }
    }
}

/// The SDK's words, as far as a person reads them.
pub fn words<E: Error + 'static>(error: &SdkError<E>) -> String {
    let words = DisplayErrorContext(error).to_string();
    // What follows is the form of the SDK's types.
    let words = words.split(" (").next().unwrap_or_default();
    words.chars().take(WORDS).collect()
}

fn judge<E>(name: &str, error: &SdkError<E>) -> Judged
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let SdkError::ServiceError(context) = error else {
        return Judged::Away(words(error));
    };
    let (code, message) = (context.err().code(), context.err().message());
    let status = context.raw().status().as_u16();
    let code = code.unwrap_or_default();
    let said = format!("{code}: {}", message.unwrap_or("no reason was given"));
    let refused =
        |advice: &str| Judged::Final(LedgerError::Denied(format!("{name}: {said}; {advice}")));
    match code {
        "ConditionalCheckFailedException" => Judged::Condition,
        "ThrottlingException"
        | "Throttling"
        | "ProvisionedThroughputExceededException"
        | "RequestLimitExceeded" => Judged::Throttled(said),
        "AccessDeniedException" => refused(
            "the role needs dynamodb:PutItem, GetItem and Query on the table and its indexes",
        ),
        "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "IncompleteSignatureException"
        | "MissingAuthenticationTokenException" => {
            refused("check this program's credentials and its clock")
        }
        // The provider is asked for new ones with the next attempt.
        "ExpiredTokenException" => Judged::Away(said),
        "ResourceNotFoundException" => {
            let advice = "create the table with `halo ledger create`, or check its name and region";
            Judged::Final(LedgerError::Missing(format!("{name} ({advice})")))
        }
        _ if status >= 500 => Judged::Away(said),
        _ => Judged::Final(LedgerError::Storage(format!("{name}: {said}"))),
    }
}

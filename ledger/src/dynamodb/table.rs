//! The table: made once, by a person with the rights to do so.

use std::error::Error;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, IndexStatus, KeySchemaElement, KeyType,
    PointInTimeRecoverySpecification, PointInTimeRecoveryStatus, Projection, ProjectionType,
    ScalarAttributeType, TableDescription, TableStatus, TimeToLiveStatus,
};
use tokio::time::Instant;

use super::client::{self, words};
use super::item::{DEVICE, LISTING, OPENED, TENANT};
use super::keys::{PK, SK};
use crate::LedgerError;

/// The index of a tenant's sessions.
pub const BY_TENANT: &str = "sessions_by_tenant";
/// The index of all sessions.
pub const BY_TIME: &str = "sessions_by_time";

/// Partition key and sort key of the table and its indexes, and what an index holds besides all keys.
const INDEXES: [(&str, [&str; 2], &[&str]); 2] = [
    (BY_TENANT, [TENANT, OPENED], &[DEVICE]),
    (BY_TIME, [LISTING, OPENED], &[DEVICE, TENANT]),
];

/// How long a table is waited for; making one takes some ten seconds.
const WAITED: Duration = Duration::from_secs(300);

/// What [`create_table`] did and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableReport {
    /// Whether the table was made now.
    pub created: bool,
    /// What is not as it would have been made, a sentence each. Nothing of it was changed.
    pub differences: Vec<String>,
}

/// Makes the table, or says how one that is there differs from what would have been made. Waits until it can be used.
///
/// It is billed by request, recoverable to any second of the last 35 days, protected from deletion, and nothing in it expires.
pub async fn create_table(table: &str, region: &str) -> Result<TableReport, LedgerError> {
    create_table_on(&client::environment(region).await, table).await
}

/// The same with an endpoint and credentials of the caller's.
pub async fn create_table_on(
    environment: &SdkConfig,
    table: &str,
) -> Result<TableReport, LedgerError> {
    let client = Client::new(environment);
    let created = match describe(&client, table).await? {
        Some(_) => false,
        None => create(&client, table).await?,
    };
    let found = wait(&client, table).await?;
    let mut differences = compare(&found);
    if created {
        differences.extend(recoverable(&client, table).await?);
    } else {
        differences.extend(is_recoverable(&client, table).await?);
    }
    differences.extend(expiry(&client, table).await?);
    Ok(TableReport {
        created,
        differences,
    })
}

/// The service's code for an error.
fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> &str {
    error.code().unwrap_or_default()
}

/// Names the table, the action and the cause.
fn failed<E>(table: &str, action: &str, error: &SdkError<E>) -> LedgerError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let said = match error.message() {
        Some(message) => format!("{}: {message}", code(error)),
        None => words(error),
    };
    let cause = format!("table {table}: {said}");
    match error {
        SdkError::ServiceError(_) if code(error).contains("AccessDenied") => {
            LedgerError::Denied(format!("{cause}; this needs dynamodb:{action}"))
        }
        SdkError::ServiceError(_) => LedgerError::Storage(cause),
        _ => LedgerError::Unavailable(cause),
    }
}

async fn describe(client: &Client, table: &str) -> Result<Option<TableDescription>, LedgerError> {
    match client.describe_table().table_name(table).send().await {
        Ok(output) => Ok(output.table),
        Err(error) if code(&error) == "ResourceNotFoundException" => Ok(None),
        Err(error) => Err(failed(table, "DescribeTable", &error)),
    }
}

/// `false`: somebody else made it meanwhile.
async fn create(client: &Client, table: &str) -> Result<bool, LedgerError> {
    let built = |error: aws_sdk_dynamodb::error::BuildError| {
        LedgerError::Storage(format!("table {table}: {error}"))
    };
    let mut create = client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .deletion_protection_enabled(true)
        .set_key_schema(Some(schema([PK, SK]).map_err(built)?));
    for name in [PK, SK, TENANT, OPENED, LISTING] {
        let attribute = AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::S);
        create = create.attribute_definitions(attribute.build().map_err(built)?);
    }
    for (name, keys, more) in INDEXES {
        let projection = Projection::builder()
            .projection_type(ProjectionType::Include)
            .set_non_key_attributes(Some(more.iter().map(|name| (*name).to_owned()).collect()));
        let index = GlobalSecondaryIndex::builder()
            .index_name(name)
            .set_key_schema(Some(schema(keys).map_err(built)?))
            .projection(projection.build());
        create = create.global_secondary_indexes(index.build().map_err(built)?);
    }
    match create.send().await {
        Ok(_) => Ok(true),
        Err(error) if code(&error) == "ResourceInUseException" => Ok(false),
        Err(error) => Err(failed(table, "CreateTable", &error)),
    }
}

fn schema(
    [partition, sort]: [&str; 2],
) -> Result<Vec<KeySchemaElement>, aws_sdk_dynamodb::error::BuildError> {
    let key = |name: &str, kind| {
        let key = KeySchemaElement::builder().attribute_name(name);
        key.key_type(kind).build()
    };
    Ok(vec![
        key(partition, KeyType::Hash)?,
        key(sort, KeyType::Range)?,
    ])
}

/// Waits until the table and its indexes can be used.
async fn wait(client: &Client, table: &str) -> Result<TableDescription, LedgerError> {
    let deadline = Instant::now() + WAITED;
    let mut pause = Duration::from_millis(50);
    loop {
        let found = describe(client, table).await?;
        let status = found
            .as_ref()
            .and_then(TableDescription::table_status)
            .cloned();
        match (found, status) {
            (Some(found), Some(TableStatus::Active)) if indexes_are_active(&found) => {
                return Ok(found);
            }
            _ if Instant::now() >= deadline => {
                return Err(LedgerError::Unavailable(format!(
                    "table {table} has not become ACTIVE in {} s",
                    WAITED.as_secs()
                )));
            }
            _ => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

fn indexes_are_active(table: &TableDescription) -> bool {
    let indexes = table.global_secondary_indexes().iter();
    { indexes }.all(|index| {
        index
            .index_status()
            .is_none_or(|status| *status == IndexStatus::Active)
    })
}

/// How a table differs from one that is made here: pure.
fn compare(table: &TableDescription) -> Vec<String> {
    let mut differences = Vec::new();
    let name = table.table_name().unwrap_or_default();
    let keys = |schema: &[KeySchemaElement]| {
        let names = schema.iter().map(|key| key.attribute_name().to_owned());
        names.collect::<Vec<_>>().join(", ")
    };
    let key = keys(table.key_schema());
    if key != [PK, SK].join(", ") {
        differences.push(format!(
            "its key is ({key}) and must be ({PK}, {SK}): it is no ledger's table"
        ));
    }
    for attribute in table.attribute_definitions() {
        if *attribute.attribute_type() != ScalarAttributeType::S {
            differences.push(format!(
                "key attribute {} has type {} and must be S",
                attribute.attribute_name(),
                attribute.attribute_type()
            ));
        }
    }
    let billing = table
        .billing_mode_summary()
        .and_then(|summary| summary.billing_mode());
    if billing != Some(&BillingMode::PayPerRequest) {
        differences.push(
            "its capacity is provisioned: bursts are throttled; bill it by request".to_owned(),
        );
    }
    if table.deletion_protection_enabled() != Some(true) {
        differences.push(format!(
            "it is not protected from deletion: aws dynamodb update-table --table-name {name} --deletion-protection-enabled"
        ));
    }
    for (index, keys_wanted, more) in INDEXES {
        let indexes = table.global_secondary_indexes();
        let Some(found) = indexes
            .iter()
            .find(|found| found.index_name() == Some(index))
        else {
            differences.push(format!(
                "index {index} is missing: sessions cannot be listed by it"
            ));
            continue;
        };
        let key = keys(found.key_schema());
        if key != keys_wanted.join(", ") {
            differences.push(format!(
                "index {index} has the key ({key}) and must have ({})",
                keys_wanted.join(", ")
            ));
        }
        let projection = found.projection();
        let all = projection.and_then(Projection::projection_type) == Some(&ProjectionType::All);
        let held = projection
            .map(Projection::non_key_attributes)
            .unwrap_or_default();
        if let Some(missing) = more
            .iter()
            .find(|name| !all && !held.iter().any(|held| held == *name))
        {
            differences.push(format!(
                "index {index} does not hold {missing}: lists read every header"
            ));
        }
    }
    differences
}

/// Says what is wrong with a setting that this endpoint does not know, such as an emulator's.
fn unknown<E>(table: &str, action: &str, error: &SdkError<E>) -> Result<Option<String>, LedgerError>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match code(error) {
        "UnknownOperationException" => Ok(Some(format!("this endpoint does not know {action}"))),
        _ => Err(failed(table, action, error)),
    }
}

/// Turns point-in-time recovery on.
async fn recoverable(client: &Client, table: &str) -> Result<Option<String>, LedgerError> {
    let on = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true);
    let on = on
        .build()
        .map_err(|error| LedgerError::Storage(error.to_string()))?;
    let deadline = Instant::now() + WAITED;
    loop {
        let update = client.update_continuous_backups().table_name(table);
        match update
            .point_in_time_recovery_specification(on.clone())
            .send()
            .await
        {
            Ok(_) => return Ok(None),
            // Backups of a new table are made ready for some seconds.
            Err(error)
                if code(&error) == "ContinuousBackupsUnavailableException"
                    && Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Err(error) => return unknown(table, "UpdateContinuousBackups", &error),
        }
    }
}

/// Whether point-in-time recovery is on.
async fn is_recoverable(client: &Client, table: &str) -> Result<Option<String>, LedgerError> {
    let described = client
        .describe_continuous_backups()
        .table_name(table)
        .send()
        .await;
    let output = match described {
        Ok(output) => output,
        Err(error) => return unknown(table, "DescribeContinuousBackups", &error),
    };
    let backups = output.continuous_backups_description();
    let recovery = backups.and_then(|backups| backups.point_in_time_recovery_description());
    let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status());
    Ok((status != Some(&PointInTimeRecoveryStatus::Enabled)).then(|| {
        format!(
            "point-in-time recovery is off: aws dynamodb update-continuous-backups --table-name {table} \
             --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true"
        )
    }))
}

/// Whether items expire.
async fn expiry(client: &Client, table: &str) -> Result<Option<String>, LedgerError> {
    let output = match client
        .describe_time_to_live()
        .table_name(table)
        .send()
        .await
    {
        Ok(output) => output,
        Err(error) => return unknown(table, "DescribeTimeToLive", &error),
    };
    let expiry = output.time_to_live_description();
    let status = expiry.and_then(|expiry| expiry.time_to_live_status());
    let off = matches!(status, None | Some(TimeToLiveStatus::Disabled));
    Ok((!off).then(|| {
        "items expire: receipts would vanish without a trace; turn time-to-live off".to_owned()
    }))
}

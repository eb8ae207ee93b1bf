//! Whether the ledger's table is kept as receipts must be. Pure.

use serde_json::Value;

use super::call::Answer;
use super::outcome::Check;

/// The table's partition key.
pub const PARTITION_KEY: &str = "pk";
/// The table's sort key.
pub const SORT_KEY: &str = "sk";

/// One setting of the table, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Switched on.
    On,
    /// Switched off.
    Off,
    /// This identity may not ask.
    Denied(String),
    /// There is no such table.
    Missing,
    /// It could not be told.
    Unknown(String),
}

/// Why an answer does not say how something is set.
pub fn not_read(answer: &Answer) -> Setting {
    match answer {
        Answer::Refused { code, .. }
            if code == "ResourceNotFoundException" || code == "TableNotFoundException" =>
        {
            Setting::Missing
        }
        Answer::Refused { code, message, .. } if code == "AccessDeniedException" => {
            Setting::Denied(message.clone())
        }
        Answer::Refused { code, message, .. } => Setting::Unknown(format!("{code}: {message}")),
        Answer::Strange { status, .. } => {
            Setting::Unknown(format!("status {status}, which is no answer of AWS"))
        }
        Answer::Nothing(why) => Setting::Unknown(why.clone()),
        Answer::Done => Setting::Unknown("the answer cannot be read".to_owned()),
    }
}

/// What is known of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `ACTIVE` and others; `Err` with words if it could not be asked.
    pub status: Result<String, Setting>,
    /// Deletion protection.
    pub protected: Setting,
    /// Point-in-time recovery.
    pub recovery: Setting,
    /// Time to live: items that vanish by themselves.
    pub expires: Setting,
}

impl Facts {
    /// A table that is not there.
    pub fn missing() -> Self {
        Self {
            status: Err(Setting::Missing),
            protected: Setting::Missing,
            recovery: Setting::Missing,
            expires: Setting::Missing,
        }
    }

    /// From the answers to DescribeTable, DescribeContinuousBackups and DescribeTimeToLive.
    pub fn read(
        described: Result<Value, Setting>,
        backups: Result<Value, Setting>,
        expiry: Result<Value, Setting>,
    ) -> Self {
        let text = |answer: &Value, path: &str| {
            answer
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let switch = |answer: Result<Value, Setting>, path: &str| match answer {
            Err(why) => why,
            Ok(answer) => match text(&answer, path).as_str() {
                "ENABLED" | "ENABLING" => Setting::On,
                "DISABLED" | "DISABLING" => Setting::Off,
                other => Setting::Unknown(format!("DynamoDB says {other:?}")),
            },
        };
        let protected = match &described {
            Err(why) => why.clone(),
            // DynamoDB leaves the field out of tables that never had it.
            Ok(answer) => match answer
                .pointer("/Table/DeletionProtectionEnabled")
                .and_then(Value::as_bool)
            {
                Some(true) => Setting::On,
                Some(false) | None => Setting::Off,
            },
        };
        Self {
            status: described.map(|answer| text(&answer, "/Table/TableStatus")),
            protected,
            recovery: switch(
                backups,
                "/ContinuousBackupsDescription/PointInTimeRecoveryDescription/PointInTimeRecoveryStatus",
            ),
            expires: switch(expiry, "/TimeToLiveDescription/TimeToLiveStatus"),
        }
    }
}

const TABLE: &str = "docs/install.md#the-ledgers-table";

/// Judges the table. With `hold` a setting that this identity may not read counts as not asked: HALO's own roles have no need to.
pub fn judge(name: &str, facts: &Facts, hold: bool) -> Vec<Check> {
    let exists = format!("the table {name} is ready");
    let first = match &facts.status {
        Ok(status) if status == "ACTIVE" || status == "UPDATING" => {
            Check::ok(exists, status.clone())
        }
        Ok(status) => Check::fail(exists, status.clone()).hint("wait until it is ACTIVE", TABLE),
        Err(Setting::Missing) => {
            let check = Check::fail(exists, "there is no such table in this region and account");
            let hint = format!("halo ledger create --ledger dynamodb:{name}@REGION");
            return vec![check.hint(hint, TABLE)];
        }
        Err(why) => not_told(exists, why, "dynamodb:DescribeTable", hold),
    };
    let setting =
        |says: String, found: &Setting, wanted: &Setting, action: &str, hint: &str| match found {
            found if found == wanted => Check::ok(says, ""),
            Setting::On => Check::fail(says, "it is switched on").hint(hint, TABLE),
            Setting::Off => Check::fail(says, "it is switched off").hint(hint, TABLE),
            why => not_told(says, why, action, hold),
        };
    vec![
        first,
        setting(
            format!("{name} can be put back to any second of the last 35 days"),
            &facts.recovery,
            &Setting::On,
            "dynamodb:DescribeContinuousBackups",
            &format!(
                "aws dynamodb update-continuous-backups --table-name {name} --point-in-time-recovery-specification \
                 PointInTimeRecoveryEnabled=true"
            ),
        ),
        setting(
            format!("{name} is protected from deletion"),
            &facts.protected,
            &Setting::On,
            "dynamodb:DescribeTable",
            &format!("aws dynamodb update-table --table-name {name} --deletion-protection-enabled"),
        ),
        setting(
            format!("nothing in {name} vanishes by itself"),
            &facts.expires,
            &Setting::Off,
            "dynamodb:DescribeTimeToLive",
            "switch time to live off: receipts that vanish make a session fail its verification",
        ),
    ]
}

fn not_told(says: String, why: &Setting, action: &str, hold: bool) -> Check {
    match why {
        Setting::Denied(_) if hold => Check::skipped(
            says,
            format!("this identity has no {action}, and needs none; ask as an administrator"),
        ),
        Setting::Denied(why) => Check::unknown(says, why.clone())
            .hint(format!("ask as somebody who has {action}"), TABLE),
        Setting::Unknown(why) => Check::unknown(says, why.clone()),
        Setting::On | Setting::Off | Setting::Missing => {
            Check::unknown(says, "it could not be told")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::outcome::Status;

    #[test]
    fn settings() {
        let good = Facts {
            status: Ok("ACTIVE".to_owned()),
            protected: Setting::On,
            recovery: Setting::On,
            expires: Setting::Off,
        };
        let statuses = |facts: &Facts, hold| {
            let checks = judge("t", facts, hold);
            checks
                .into_iter()
                .map(|check| check.result)
                .collect::<Vec<_>>()
        };
        use Status::{Fail, Ok as Good, Skipped, Unknown};
        let denied = Setting::Denied("no".to_owned());
        let table: Vec<(Facts, bool, [Status; 4])> = vec![
            (good.clone(), false, [Good; 4]),
            (
                Facts {
                    status: Ok("CREATING".to_owned()),
                    ..good.clone()
                },
                false,
                [Fail, Good, Good, Good],
            ),
            (
                Facts {
                    recovery: Setting::Off,
                    ..good.clone()
                },
                true,
                [Good, Fail, Good, Good],
            ),
            (
                Facts {
                    protected: Setting::Off,
                    ..good.clone()
                },
                true,
                [Good, Good, Fail, Good],
            ),
            (
                Facts {
                    expires: Setting::On,
                    ..good.clone()
                },
                true,
                [Good, Good, Good, Fail],
            ),
            (
                Facts {
                    recovery: Setting::Unknown("x".to_owned()),
                    ..good.clone()
                },
                true,
                [Good, Unknown, Good, Good],
            ),
            (
                Facts {
                    status: Err(denied.clone()),
                    protected: denied.clone(),
                    recovery: denied.clone(),
                    expires: denied.clone(),
                },
                true,
                [Skipped; 4],
            ),
            (
                Facts {
                    status: Err(denied.clone()),
                    protected: denied.clone(),
                    recovery: denied.clone(),
                    expires: denied,
                },
                false,
                [Unknown; 4],
            ),
        ];
        for (facts, hold, expected) in table {
            assert_eq!(statuses(&facts, hold), expected, "{facts:?}");
        }
    }

    #[test]
    fn answers_of_dynamodb() {
        let described = |protected: Value| {
            Ok(
                serde_json::json!({"Table": {"TableStatus": "ACTIVE", "DeletionProtectionEnabled": protected}}),
            )
        };
        let backups = |status: &str| {
            let inner = serde_json::json!({"PointInTimeRecoveryDescription": {"PointInTimeRecoveryStatus": status}});
            Ok(serde_json::json!({"ContinuousBackupsDescription": inner}))
        };
        let expiry = |status: &str| {
            Ok(serde_json::json!({"TimeToLiveDescription": {"TimeToLiveStatus": status}}))
        };
        let facts = Facts::read(
            described(Value::Bool(true)),
            backups("ENABLED"),
            expiry("DISABLED"),
        );
        assert_eq!(
            judge("t", &facts, false)
                .iter()
                .filter(|check| check.result == Status::Ok)
                .count(),
            4
        );
        let facts = Facts::read(
            described(Value::Null),
            backups("DISABLED"),
            expiry("ENABLING"),
        );
        assert_eq!(
            (facts.protected, facts.recovery, facts.expires),
            (Setting::Off, Setting::Off, Setting::On)
        );
        let facts = Facts::read(Ok(Value::Null), Ok(Value::Null), Err(Setting::Missing));
        assert_eq!(
            (facts.status, facts.expires),
            (Ok(String::new()), Setting::Missing)
        );
        assert!(matches!(facts.recovery, Setting::Unknown(_)));
        let gone = judge("t", &Facts::missing(), true);
        assert_eq!((gone.len(), gone[0].result), (1, Status::Fail));

        let refused = |code: &str| Answer::Refused {
            status: 400,
            code: code.to_owned(),
            message: "m".to_owned(),
        };
        assert_eq!(
            not_read(&refused("ResourceNotFoundException")),
            Setting::Missing
        );
        assert_eq!(
            not_read(&refused("AccessDeniedException")),
            Setting::Denied("m".to_owned())
        );
        assert_eq!(
            not_read(&refused("Throttling")),
            Setting::Unknown("Throttling: m".to_owned())
        );
        assert_eq!(
            not_read(&Answer::Nothing("cut".to_owned())),
            Setting::Unknown("cut".to_owned())
        );
    }

    #[test]
    fn a_wrong_setting_says_what_to_do() {
        let bad = Facts {
            status: Ok("ACTIVE".to_owned()),
            protected: Setting::Off,
            recovery: Setting::Off,
            expires: Setting::On,
        };
        let hints = [
            "PointInTimeRecoveryEnabled=true",
            "--deletion-protection-enabled",
            "time to live",
        ];
        let checks = judge("t", &bad, false);
        // The first says that the table is there.
        assert_eq!(checks.len(), 1 + hints.len());
        for (check, hint) in checks.iter().skip(1).zip(hints) {
            assert!(check.hint.contains(hint), "{check:?}");
            assert_eq!(check.anchor, TABLE);
        }
    }
}

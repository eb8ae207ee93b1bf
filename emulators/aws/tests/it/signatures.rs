//! Signatures against the worked example of AWS's own documentation, and what is refused.

use halo_aws_emulator::sigv4::{Refusal, Signed, check};

/// From "Signature Version 4 signing process: examples" of the IAM user guide: GET ListUsers.
const KEY: (&str, &str) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
const SIGNATURE: &str = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";

fn headers(signature: &str) -> Vec<(String, String)> {
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
         SignedHeaders=content-type;host;x-amz-date, Signature={signature}"
    );
    [
        (
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        ),
        ("host", "iam.amazonaws.com"),
        ("x-amz-date", "20150830T123600Z"),
        ("authorization", &authorization),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

fn request(headers: &[(String, String)]) -> Signed<'_> {
    Signed {
        method: "GET",
        path: "/",
        query: "Action=ListUsers&Version=2010-05-08",
        headers,
        body: b"",
    }
}

#[test]
fn the_documented_example_passes() {
    let headers = headers(SIGNATURE);
    assert_eq!(
        check(&request(&headers), "us-east-1", "iam", Some(KEY)),
        Ok(())
    );
}

#[test]
fn any_change_is_noticed() {
    let signed = headers(SIGNATURE);
    let good = request(&signed);
    let changed = [
        Signed {
            method: "POST",
            ..good
        },
        Signed {
            path: "/other",
            ..good
        },
        Signed {
            query: "Action=ListUsers&Version=2010-05-09",
            ..good
        },
        Signed { body: b"x", ..good },
    ];
    for request in changed {
        assert_eq!(
            check(&request, "us-east-1", "iam", Some(KEY)),
            Err(Refusal::Mismatch)
        );
    }
    let mut other_host = signed.clone();
    other_host[1].1 = "elsewhere".to_owned();
    assert_eq!(
        check(&request(&other_host), "us-east-1", "iam", Some(KEY)),
        Err(Refusal::Mismatch)
    );
    let wrong_secret = Some((KEY.0, "another"));
    assert_eq!(
        check(&good, "us-east-1", "iam", wrong_secret),
        Err(Refusal::Mismatch)
    );
    let wrong_id = Some(("AKIDOTHER", KEY.1));
    assert_eq!(
        check(&good, "us-east-1", "iam", wrong_id),
        Err(Refusal::UnknownKey)
    );
    // Without a key, the form is all that counts.
    let zeros = headers(&"0".repeat(64));
    assert_eq!(check(&request(&zeros), "us-east-1", "iam", None), Ok(()));
    assert_eq!(
        check(&request(&zeros), "us-east-1", "ec2", None),
        Err(Refusal::Scope)
    );
    assert_eq!(
        check(&request(&zeros), "us-east-2", "iam", None),
        Err(Refusal::Scope)
    );
    assert_eq!(
        check(&request(&[]), "us-east-1", "iam", None),
        Err(Refusal::Missing)
    );
    let short = headers("00");
    assert_eq!(
        check(&request(&short), "us-east-1", "iam", None),
        Err(Refusal::Malformed)
    );
}

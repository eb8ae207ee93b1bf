"""Both peers, one script, all differences. Started by run.py, with boto3 and moto at hand."""

import argparse
import datetime
import fnmatch
import json
import pathlib
import re
import sys

import boto3
import botocore.config
import botocore.exceptions
import botocore.parsers

import peers
import script

HERE = pathlib.Path(__file__).resolve().parent
ID = re.compile(r"\b(i|vol|r|eni|eni-attach|snap|subnet|vpc|sg|ami|igw|acl)-[0-9a-f]{8,17}\b")
UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
ADDRESS = re.compile(r"\b\d+[.-]\d+[.-]\d+[.-]\d+\b")
# Lists for which AWS promises no order.
UNORDERED = {
    "BlockDeviceMappings",
    "InstanceTypeOfferings",
    "InvalidParameters",
    "Parameters",
    "SecurityGroups",
    "Tags",
    "Volumes",
}
MISSING = "(not there)"


class Transcript:
    """What one peer answered, step by step, with names in place of ids."""

    def __init__(self, url):
        options = {
            "endpoint_url": url,
            "region_name": "us-east-2",
            "aws_access_key_id": peers.KEY[0],
            "aws_secret_access_key": peers.KEY[1],
            "config": botocore.config.Config(retries={"total_max_attempts": 1}),
        }
        self.ec2 = boto3.client("ec2", **options)
        self.ssm = boto3.client("ssm", **options)
        self.names = {}
        self.steps = {}

    def name(self, name, identifier):
        """From now on this id is written as its name."""
        self.names[identifier] = f"<{name}>"
        return identifier

    def step(self, name, call):
        """Makes one call and keeps its answer, or its error; returns the answer as it was, or None."""
        if name in self.steps:
            raise ValueError(f"two steps are called {name}")
        try:
            answer = call()
        except botocore.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            self.steps[name] = {"Error": {"Code": error.response["Error"]["Code"], "Status": status}}
            return None
        except botocore.parsers.ResponseParserError:
            self.steps[name] = {"Error": {"Code": "(an answer that is no XML)", "Status": 500}}
            return None
        answer = {key: value for key, value in answer.items() if key != "ResponseMetadata"}
        # Ids are named by the script after the answer; so answers are kept raw and normalised at the end.
        self.steps[name] = answer
        return answer

    def note(self, name, value):
        """Keeps something that was worked out from answers."""
        self.steps[name] = value

    def normalised(self):
        return {name: self.plain(answer) for name, answer in self.steps.items()}

    def plain(self, value, key=None):
        if isinstance(value, dict):
            return {key: self.plain(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            items = [self.plain(inner) for inner in value]
            if key in UNORDERED:
                items.sort(key=lambda item: json.dumps(item, sort_keys=True))
            return items
        if isinstance(value, datetime.datetime):
            return "<time>"
        if not isinstance(value, str):
            return value
        if key in ("MacAddress", "NextToken", "ReservationId"):
            return f"<{key}>"
        value = ID.sub(lambda match: self.names.get(match[0], f"<another {match[1]}>"), value)
        for pattern, name in ((UUID, "<uuid>"), (MOMENT, "<time>"), (ADDRESS, "<address>")):
            value = pattern.sub(name, value)
        return value


def differences(step, left, right, path=()):
    """(step, path, left, right) of every leaf in which two trees differ."""
    failed = [isinstance(side, dict) and not path and "Error" in side for side in (left, right)]
    if failed[0] != failed[1]:
        # One failed, the other was done: the answer's fields say no more.
        yield step, "Error", *(side["Error"] if fails else "(done)" for side, fails in zip((left, right), failed))
    elif isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            yield from differences(step, left.get(key, MISSING), right.get(key, MISSING), (*path, key))
    elif isinstance(left, list) and isinstance(right, list):
        for index in range(max(len(left), len(right))):
            at = [side[index] if index < len(side) else MISSING for side in (left, right)]
            yield from differences(step, *at, (*path, str(index)))
    elif left != right:
        yield step, ".".join(path), left, right


def fits(entry, step, path, left, right):
    """Whether a known divergence is about this difference: step and path match, and so do the sides that it names."""
    return (
        fnmatch.fnmatchcase(step, entry["step"])
        and fnmatch.fnmatchcase(path, entry["path"])
        and entry.get("emulator", left) == left
        and entry.get("moto", right) == right
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emulator", required=True)
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    transcripts = []
    try:
        with peers.emulator(arguments.emulator) as ours, peers.moto() as theirs:
            for url in (ours, theirs):
                transcript = Transcript(url)
                script.run(transcript)
                transcripts.append(transcript.normalised())
    except (OSError, RuntimeError) as error:
        print(f"the peers cannot be compared: {error}", file=sys.stderr)
        return 3
    ours, theirs = transcripts
    known = json.loads((HERE / "divergences.json").read_text())
    used = [0] * len(known)
    new = 0
    total = 0
    for step in sorted(ours.keys() | theirs.keys()):
        for step, path, left, right in differences(step, ours.get(step, MISSING), theirs.get(step, MISSING)):
            total += 1
            matches = [
                index
                for index, entry in enumerate(known)
                if fits(entry, step, path, left, right)
            ]
            for index in matches:
                used[index] += 1
            if not matches:
                new += 1
            if not matches or arguments.all:
                reason = known[matches[0]]["reason"] if matches else "NOT KNOWN"
                print(f"{step}: {path}\n    emulator: {json.dumps(left)}\n    moto:     {json.dumps(right)}\n    {reason}")
    stale = [entry for entry, count in zip(known, used) if not count]
    for entry in stale:
        print(f"no difference any more, take it out of divergences.json: {json.dumps(entry)}")
    print(f"{len(ours)} steps, {total} differences, {new} of them new; {len(known)} known divergences, {len(stale)} of them stale")
    return 1 if new or stale else 0


if __name__ == "__main__":
    sys.exit(main())

//! DynamoDB Local for tests.

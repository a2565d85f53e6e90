//! Bytes by key: a directory now, S3 later; the only user of aws-sdk-s3.

//! MongoDB's error codes, by what they mean for the writes of a command.
//!
//! Names and numbers are those of the server's `src/mongo/base/error_codes.yml` (of 2026, for 8.x; obsolete names where
//! old servers still send them), those without a name are from its source. 8000 is Atlas's own.

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server's state: away, no primary, stepping down, its disk full, a cursor or a session lost. It passes.
    Server,
    /// The server gave up, or waited for others, for too long.
    Slow,
    /// The server has too much to do.
    Overload,
    /// The server does not let this client, whatever it writes, until its owner mends that.
    NotAllowed,
    /// A document's own. Of a whole command, of some document in it.
    Document,
    /// The collection's: no document can ever be written there.
    Namespace,
    /// Nothing is known of it. Whether it is the document's is found out, see [`super::Mongo::control`].
    Unknown,
}

use Fault::{Document, Namespace, NotAllowed, Overload, Server, Slow};

const TABLE: &[(i32, &str, Fault)] = &[
    (2, "BadValue", Document),
    (6, "HostUnreachable", Server),
    (7, "HostNotFound", Server),
    (9, "FailedToParse", Document),
    (11, "UserNotFound", NotAllowed),
    (13, "Unauthorized", NotAllowed),
    (14, "TypeMismatch", Document),
    (15, "Overflow", Document),
    (16, "InvalidLength", Document),
    (18, "AuthenticationFailed", NotAllowed),
    (22, "InvalidBSON", Document),
    (24, "LockTimeout", Slow),
    (28, "PathNotViable", Document),
    (43, "CursorNotFound", Server),
    (46, "LockBusy", Server),
    (50, "MaxTimeMSExpired", Slow),
    (52, "DollarPrefixedFieldName", Document),
    (53, "InvalidIdField", Document),
    (56, "EmptyFieldName", Document),
    (57, "DottedFieldName", Document),
    (61, "ShardKeyNotFound", Document),
    (63, "OBSOLETE_StaleShardVersion", Server),
    (64, "WriteConcernTimeout", Slow),
    (66, "ImmutableField", Document),
    (73, "InvalidNamespace", Namespace),
    (79, "UnknownReplWriteConcern", NotAllowed),
    (89, "NetworkTimeout", Slow),
    (91, "ShutdownInProgress", Server),
    (94, "NotYetInitialized", Server),
    (100, "UnsatisfiableWriteConcern", NotAllowed),
    (107, "LockFailed", Server),
    (112, "WriteConflict", Server),
    (116, "DocTooLargeForCapped", Document),
    (117, "ConflictingOperationInProgress", Server),
    (121, "DocumentValidationFailure", Document),
    (133, "FailedToSatisfyReadPreference", Server),
    (134, "ReadConcernMajorityNotAvailableYet", Server),
    (136, "CappedPositionLost", Server),
    (141, "SSLHandshakeFailed", NotAllowed),
    (143, "CursorInUse", Server),
    (145, "PooledConnectionsDropped", Server),
    (146, "ExceededMemoryLimit", Overload),
    (150, "StaleEpoch", Server),
    (166, "CommandNotSupportedOnView", Namespace),
    (171, "CannotIndexParallelArrays", Document),
    (172, "TransportSessionClosed", Server),
    (175, "QueryPlanKilled", Server),
    (189, "PrimarySteppedDown", Server),
    (201, "CannotBuildIndexKeys", Document),
    (202, "NetworkInterfaceExceededTimeLimit", Slow),
    (203, "ShardingStateNotInitialized", Server),
    (206, "NoSuchSession", Server),
    (208, "TooManyLocks", Overload),
    (214, "AuthenticationRestrictionUnmet", NotAllowed),
    (215, "DatabaseDropPending", Server),
    (216, "ElectionInProgress", Server),
    (225, "TransactionTooOld", Server),
    (237, "CursorKilled", Server),
    (239, "SnapshotTooOld", Server),
    (241, "ConversionFailure", Document),
    (246, "SnapshotUnavailable", Server),
    (249, "StaleDbVersion", Server),
    (250, "StaleChunkHistory", Server),
    (261, "TooManyLogicalSessions", Overload),
    (262, "ExceededTimeLimit", Slow),
    (264, "TooManyFilesOpen", Overload),
    (279, "ClientDisconnect", Server),
    (290, "TransactionExceededLifetimeLimitSeconds", Slow),
    (314, "ObjectIsBusy", Server),
    (322, "APIVersionError", NotAllowed),
    (323, "APIStrictError", NotAllowed),
    (324, "APIDeprecationError", NotAllowed),
    (334, "MechanismUnavailable", NotAllowed),
    (355, "InterruptedDueToStorageChange", Server),
    (365, "TemporarilyUnavailable", Overload),
    (371, "UserWritesBlocked", NotAllowed),
    (378, "NonConformantBSON", Document),
    (388, "TransactionTooLargeForCache", Overload),
    (390, "InvalidSignature", NotAllowed),
    (391, "ReauthenticationRequired", NotAllowed),
    (392, "InvalidJWT", NotAllowed),
    (402, "ResourceExhausted", Overload),
    (404, "LDAPRoleAcquisitionError", NotAllowed),
    (406, "MigrationBlockingOperationCoordinatorCleaningUp", Server),
    (407, "PooledConnectionAcquisitionExceededTimeLimit", Slow),
    (412, "UpdatesStillPending", Server),
    (433, "AdmissionQueueOverflow", Overload),
    (449, "RateLimitExceeded", Overload),
    (450, "PooledConnectionAcquisitionRejected", Overload),
    (453, "InterruptedDueToReshardingCriticalSection", Server),
    (462, "IngressRequestRateLimitExceeded", Overload),
    (8000, "AtlasError", NotAllowed),
    (9001, "SocketException", Server),
    (10003, "CannotGrowDocumentInCappedNamespace", Document),
    (10058, "LegacyNotPrimary", Server),
    (10107, "NotWritablePrimary", Server),
    (10334, "BSONObjectTooLarge", Document),
    // On another index than that of `_id`; what collides there is looked up.
    (DUPLICATE_KEY, "DuplicateKey", Document),
    (11600, "InterruptedAtShutdown", Server),
    (11601, "Interrupted", Server),
    (11602, "InterruptedDueToReplStateChange", Server),
    (12586, "BackgroundOperationInProgressForDatabase", Server),
    (12587, "BackgroundOperationInProgressForNamespace", Server),
    (13388, "StaleConfig", Server),
    (13435, "NotPrimaryNoSecondaryOk", Server),
    (13436, "NotPrimaryOrSecondary", Server),
    (14031, "OutOfDiskSpace", Server),
    (16755, "a document that a geo index cannot take", Document),
    (17280, "OBSOLETE_KeyTooLong", Document),
    (17419, "a document that an update makes too large", Document),
    (17420, "a document that an update makes too large", Document),
    (46841, "ClientMarkedKilled", Server),
    (50915, "BackupCursorOpenConflictWithCheckpoint", Server),
    (56846, "ConfigServerUnreachable", Server),
    (91331, "RetriableRemoteCommandFailure", Server),
    (10_045_600, "InterruptedDueToFCVChange", Server),
];

pub(super) const DUPLICATE_KEY: i32 = 11000;

/// Labels that a server or the driver puts on errors, whatever their code is: the server asks for less load; the same
/// may be sent again.
const OVERLOADED: &str = "SystemOverloadedError";
const RETRYABLE: [&str; 3] = ["RetryableError", "RetryableWriteError", "TransientTransactionError"];

pub(super) fn fault(code: i32, has_label: impl Fn(&str) -> bool) -> Fault {
    if has_label(OVERLOADED) {
        return Overload;
    }
    let known = TABLE.binary_search_by_key(&code, |(code, ..)| *code);
    match known {
        Ok(place) => TABLE[place].2,
        Err(_) if RETRYABLE.into_iter().any(has_label) => Server,
        Err(_) => Fault::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_so_that_it_can_be_searched() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (code, name, expected) in TABLE {
            assert_eq!(fault(*code, |_| false), *expected, "{name}");
        }
    }

    #[test]
    fn a_label_says_more_than_a_code() {
        for (code, label, expected) in [
            (121, "SystemOverloadedError", Overload),
            (999_999, "SystemOverloadedError", Overload),
            (999_999, "RetryableError", Server),
            (999_999, "RetryableWriteError", Server),
            (999_999, "NonResumableChangeStreamError", Fault::Unknown),
            (121, "RetryableError", Document),
            (1, "", Fault::Unknown),
            (8, "", Fault::Unknown),
            (-1, "", Fault::Unknown),
        ] {
            assert_eq!(fault(code, |asked| asked == label), expected, "{code} {label}");
        }
    }

    #[test]
    fn what_must_never_poison_a_write() {
        for code in [13, 18, 50, 64, 91, 112, 189, 462, 10107, 11600, 11602, 13435, 13436, 14031] {
            assert!(!matches!(fault(code, |_| false), Document | Namespace | Fault::Unknown), "{code}");
        }
    }
}

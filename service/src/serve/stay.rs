//! An API process among the others: it relies on the number of shards, and so says that it is there.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::journal::JournalError;
use crate::journal::redis::Presence;
use crate::rarely::Rarely;

/// Far below the time after which a process counts as gone.
const INTERVAL: Duration = Duration::from_secs(1);

/// Says that this API process is there until its requests are `served`, so that nobody changes the number of shards under
/// it.
///
/// # Errors
/// Somebody did while it stood still. It asks for a stop then: it would put writes where they get out of order.
pub(super) async fn stay(
    mut presence: Presence,
    stop: CancellationToken,
    served: CancellationToken,
) -> Result<(), JournalError> {
    let unheard = Rarely::default();
    while !served.is_cancelled() {
        match presence.beat().await {
            Ok(()) => {}
            Err(error @ JournalError::Failed(_)) => {
                stop.cancel();
                return Err(error);
            }
            Err(error) => {
                if let Some(unsaid) = unheard.now() {
                    tracing::warn!(unsaid, %error, "the others may take this process for gone");
                }
            }
        }
        let _ = tokio::time::timeout(INTERVAL, served.cancelled()).await;
    }
    presence.leave().await;
    Ok(())
}

//! The dead letters of an embedded journal for those who look after them.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use super::EmbeddedJournal;
use super::dead::DeadLetters as File;
use crate::journal::{
    Appended, DeadLetters, Journal as _, JournalError, KeptLetter, LetterId, Note, Replay, Request, WriteId,
};
use crate::operation::Position;

impl EmbeddedJournal {
    /// Reads and flushes wait for the disk, so they are no work for the threads that answer requests.
    async fn with_letters<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut File) -> io::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let shared = Arc::clone(&self.shared);
        let working = tokio::task::spawn_blocking(move || work(&mut shared.dead()));
        let failed =
            |error: &dyn std::fmt::Display| JournalError::Failed(format!("the dead letters: {error}"));
        working.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }
}

#[async_trait]
impl DeadLetters for EmbeddedJournal {
    async fn page(&self, after: Position, limit: usize) -> Result<Vec<KeptLetter>, JournalError> {
        self.with_letters(move |letters| letters.page(after, limit)).await
    }

    async fn letter(&self, id: LetterId) -> Result<Option<KeptLetter>, JournalError> {
        self.with_letters(move |letters| letters.letter(id)).await
    }

    async fn by_operation(&self, op_id: &str) -> Result<Option<KeptLetter>, JournalError> {
        let op_id = op_id.to_owned();
        self.with_letters(move |letters| letters.by_operation(&op_id)).await
    }

    async fn of_request(&self, write: WriteId) -> Result<Vec<KeptLetter>, JournalError> {
        self.with_letters(move |letters| letters.of_request(write)).await
    }

    /// Durable first; a crash in between leaves the letters, and the log knows that they are in it.
    async fn replay(&self, ids: &[LetterId], request: Request) -> Result<Option<Appended>, JournalError> {
        let Some(replay) = &request.replay else {
            return Err(JournalError::Invalid("it holds no dead letters".into()));
        };
        let (replay, wanted, ids) = (Replay::clone(replay), ids.to_vec(), request.letters());
        let all_there = move |letters: &mut File| Ok(wanted.iter().all(|id| letters.has(*id)));
        if !self.with_letters(all_there).await? {
            return Ok(None);
        }
        let appended = self.append(request).await?;
        let entry = appended.ids.first();
        self.with_letters(move |letters| letters.complete(entry, &replay, &ids)).await?;
        Ok(Some(appended))
    }

    async fn drop_letter(&self, id: LetterId) -> Result<bool, JournalError> {
        self.with_letters(move |letters| {
            let Some(kept) = letters.letter(id)? else { return Ok(false) };
            let removed = letters.remove(&[id], id.write, &Note::Dropped(kept.letter.reason))?;
            Ok(removed > 0)
        })
        .await
    }
}

//! Waiting for conversions.

use std::time::Duration;

use api::{Digest, UnconvertibleReason};

use super::{digest, repository, twins};
use crate::{Catalog, CatalogError, TwinState, Watch};

/// Far longer than a note takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Who waits on `here` is woken when a conversion is finished or refused on `there`, and finds the final state.
pub(super) async fn ends_wake_who_waits(here: &Catalog, there: &Catalog) -> Result<(), CatalogError> {
    let home = repository("watch/home");
    let (finished, refused) = (digest("watch finished"), digest("watch refused"));
    for source in [&finished, &refused] {
        there.begin_conversion(source, "p-watch", &home).await?;
    }
    let waiters = [waiter(here, &finished), waiter(here, &finished), waiter(here, &refused)];
    let made = twins::twin("watch");
    there.finish_conversion(&finished, "p-watch", &made, "k", "t").await?;
    there.refuse_conversion(&refused, "p-watch", UnconvertibleReason::Limit, "entry 7").await?;
    for waiter in waiters {
        let state = waiter.await.expect("no waiter panics")?;
        assert!(!matches!(state, TwinState::Converting { .. }), "{state:?}");
    }
    Ok(())
}

/// Waits as callers do: watch, look, wait, look.
fn waiter(catalog: &Catalog, source: &Digest) -> tokio::task::JoinHandle<Result<TwinState, CatalogError>> {
    let (catalog, source) = (catalog.clone(), source.clone());
    let watch = catalog.conversions();
    tokio::spawn(async move {
        let ended = end(&catalog, watch, &source);
        tokio::time::timeout(LIMIT, ended).await.expect("who waits for a conversion is woken when it ends")
    })
}

async fn end(catalog: &Catalog, mut watch: Watch, source: &Digest) -> Result<TwinState, CatalogError> {
    loop {
        let row = catalog.twin(source, "p-watch").await?.expect("the conversion was begun");
        match row.state {
            TwinState::Converting { .. } => watch.changed(source).await,
            state => return Ok(state),
        }
    }
}

//! Waiting for conversions.

use std::time::Duration;

use api::{Digest, UnconvertibleReason};

use super::{digest, repository, twins};
use crate::{Catalog, CatalogError, TwinState};

/// Far longer than a note takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Longer than a note takes, as a rule.
const SILENCE: Duration = Duration::from_millis(300);

type Waiter = tokio::task::JoinHandle<Result<TwinState, CatalogError>>;

/// Who waits on `here` is woken when a conversion is finished or refused on `there`, and finds the final state.
pub(super) async fn ends_wake_who_waits(here: &Catalog, there: &Catalog) -> Result<(), CatalogError> {
    let home = repository("watch/home");
    let (finished, refused) = (digest("watch finished"), digest("watch refused"));
    for source in [&finished, &refused] {
        there.begin_conversion(source, "p-watch", &home).await?;
    }
    let mut waiters = Vec::new();
    for source in [&finished, &finished, &refused] {
        waiters.push(waiter(here, source).await?);
    }
    let made = twins::twin("watch");
    there.finish_conversion(&finished, "p-watch", &made, "k", "t").await?;
    there.refuse_conversion(&refused, "p-watch", UnconvertibleReason::Limit, "entry 7").await?;
    for waiter in waiters {
        let state = waiter.await.expect("no waiter panics")?;
        assert!(!matches!(state, TwinState::Converting { .. }), "{state:?}");
    }
    Ok(())
}

/// Who waits on `here` is woken when a conversion fails for a passing reason on `there`.
pub(super) async fn postponing_wakes_who_waits(here: &Catalog, there: &Catalog) -> Result<(), CatalogError> {
    let source = digest("watch postponed");
    there.begin_conversion(&source, "p-watch", &repository("watch/home")).await?;
    let mut watch = here.conversions();
    // What may be told first is that notes were missed before.
    while tokio::time::timeout(SILENCE, watch.changed(&source)).await.is_ok() {}
    there.postpone_conversion(&source, "p-watch").await?;
    tokio::time::timeout(LIMIT, watch.changed(&source)).await.expect("who waits is woken when a conversion fails");
    Ok(())
}

/// Watches and looks, and waits in a task of its own: by then the conversion is known to go on.
async fn waiter(catalog: &Catalog, source: &Digest) -> Result<Waiter, CatalogError> {
    let (catalog, source) = (catalog.clone(), source.clone());
    let mut watch = catalog.conversions();
    let mut state = look(&catalog, &source).await?;
    assert_eq!(state, TwinState::Converting { attempts: 0 });
    Ok(tokio::spawn(async move {
        while matches!(state, TwinState::Converting { .. }) {
            let changed = tokio::time::timeout(LIMIT, watch.changed(&source)).await;
            changed.expect("who waits for a conversion is woken when it ends");
            state = look(&catalog, &source).await?;
        }
        Ok(state)
    }))
}

async fn look(catalog: &Catalog, source: &Digest) -> Result<TwinState, CatalogError> {
    Ok(catalog.twin(source, "p-watch").await?.expect("the conversion was begun").state)
}

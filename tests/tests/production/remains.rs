//! What work leaves behind until it is over.

use std::time::Duration;

use e2e::{Fleet, wait};

/// How long the last trace of work may last after it.
const LIMIT: Duration = Duration::from_secs(300);

/// Waits until nothing of any work is left: no lease but that of a collection, no fill, no conversion that goes on, no unfinished upload, no spool file, in
/// any replica's folder.
pub(crate) fn wait_none(fleet: &Fleet) {
    let gone = wait::until("the end of all work", LIMIT, || Ok(find(fleet)?.is_empty().then_some(())));
    gone.unwrap_or_else(|error| panic!("{error}: {:#?}\n{}", find(fleet), fleet.log()));
}

fn find(fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let rows = fleet.sql(
        "SELECT 'lease of the ' || kind || ' of ' || subject FROM leases WHERE kind <> 'gc' \
         UNION ALL SELECT 'fill of ' || digest FROM fills \
         UNION ALL SELECT 'conversion of ' || source FROM twins WHERE state = 'converting'",
    )?;
    let mut found: Vec<_> = rows.lines().map(str::to_owned).collect();
    found.extend(fleet.backing().uploads()?.into_iter().map(|key| format!("upload of {key}")));
    for spool in fleet.stores().into_iter().map(|store| store.join("spool")) {
        // A folder that is not there holds nothing.
        for entry in std::fs::read_dir(spool).into_iter().flatten() {
            found.push(entry?.path().display().to_string());
        }
    }
    Ok(found)
}

-- Claims are numbered from here: one that waits for the row of its work keeps no other waiting, as the row of lease_epochs
-- does. Far above what that one counts, which versions before this one go on counting: no number comes twice.
CREATE SEQUENCE lease_epoch AS BIGINT START WITH 1000000000001;

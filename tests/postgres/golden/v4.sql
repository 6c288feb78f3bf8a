-- A store as version 4 left it: written once, never changed.
CREATE SCHEMA {schema};
CREATE TABLE {schema}.migrations (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row for each run: its tail, its summary, and what searches ask for. Every append updates it, so it is also the
-- fence. An update stays on its page (HOT) as long as no indexed column changes: updated_at changes with each step, so
-- only its minute is indexed.
CREATE TABLE {schema}.runs (
    run_id text COLLATE "C" PRIMARY KEY,
    last_step bigint NOT NULL,
    floor bigint NOT NULL DEFAULT 0,
    digest bytea NOT NULL,
    status text NOT NULL,
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_minute timestamptz NOT NULL GENERATED ALWAYS AS
        (date_bin('1 minute', updated_at, '0001-01-01 00:00:00+00')) STORED,
    graph_id text,
    graph_hash bytea,
    runtime_hash bytea,
    error_reason text,
    parent_run_id text COLLATE "C",
    is_child boolean NOT NULL,
    tags text[] NOT NULL,
    summary bytea
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX runs_by_start ON {schema}.runs (started_at DESC, run_id) WHERE status <> 'deleted';
CREATE INDEX runs_by_update ON {schema}.runs (updated_minute DESC) WHERE status <> 'deleted';
CREATE INDEX roots_by_start ON {schema}.runs (started_at DESC, run_id) WHERE NOT is_child AND status <> 'deleted';
CREATE INDEX runs_by_status ON {schema}.runs (status, started_at DESC, run_id);
CREATE INDEX runs_by_graph_id ON {schema}.runs (graph_id, started_at DESC, run_id) WHERE graph_id IS NOT NULL;
CREATE INDEX runs_by_graph_hash ON {schema}.runs (graph_hash, started_at DESC, run_id) WHERE graph_hash IS NOT NULL;
CREATE INDEX runs_by_runtime_hash ON {schema}.runs (runtime_hash, started_at DESC, run_id)
    WHERE runtime_hash IS NOT NULL;
CREATE INDEX runs_by_error ON {schema}.runs (error_reason, started_at DESC, run_id) WHERE error_reason IS NOT NULL;
CREATE INDEX runs_by_parent ON {schema}.runs (parent_run_id, started_at DESC, run_id) WHERE parent_run_id IS NOT NULL;
CREATE INDEX runs_by_tag ON {schema}.runs USING gin (tags) WHERE tags <> '{}';

CREATE TABLE {schema}.checkpoints (
    run_id text COLLATE "C" NOT NULL,
    step bigint NOT NULL,
    base bigint,
    digest bytea NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (run_id, step)
);
-- The record is compressed before it gets here.
ALTER TABLE {schema}.checkpoints ALTER COLUMN record SET STORAGE EXTERNAL;

CREATE TABLE {schema}.keys (
    run_id text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    step bigint NOT NULL,
    PRIMARY KEY (run_id, key, step)
);

INSERT INTO {schema}.migrations (version) VALUES (4);
INSERT INTO {schema}.runs (run_id, last_step, floor, digest, status, started_at, updated_at, graph_id, graph_hash, runtime_hash, error_reason, parent_run_id, is_child, tags, summary) VALUES ('golden', '1', '0', E'\\x9142dfb2b7d0f0f0480927a2104be8167a62b7468180f42f9d0aa950a39715a3', 'running', '2026-01-31 09:05:07.000120+00:00', '2026-01-31 09:05:08.000120+00:00', '"triage"', E'\\x1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f', E'\\x2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, NULL, false, ARRAY['["team","a"]']::text[], E'\\x7b2272756e5f6964223a22676f6c64656e222c2267726170685f6964223a22747269616765222c2267726170685f68617368223a2231663166316631663166316631663166316631663166316631663166316631663166316631663166316631663166316631663166316631663166316631663166222c2272756e74696d655f68617368223a2232653265326532653265326532653265326532653265326532653265326532653265326532653265326532653265326532653265326532653265326532653265222c22737461727465645f6174223a22323032362d30312d33315430393a30353a30372e3030303132302b30303a3030222c22757064617465645f6174223a22323032362d30312d33315430393a30353a30382e3030303132302b30303a3030222c226c6173745f73746570223a312c22737461747573223a2272756e6e696e67222c22706172656e745f72756e5f6964223a6e756c6c2c226f726967696e223a6e756c6c2c2270726f63657373223a6e756c6c2c226572726f72223a6e756c6c2c226d65746164617461223a7b227465616d223a2261227d7d');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '0', NULL, E'\\xd11240bce0531fa7fa6bf7002a2ff160632e930691e6667c899d3b962c7522b5', E'\\x05010028b52ffd60fc00750500240631373130336e676f6c64656e7472696167653166326533315430393a30353a3037313230313233343536373839616263646566227465616d223a2261227d7d227dd11240bce0531fa7fa6bf7002a2ff160632e930691e6667c899d3b962c7522b5301b00334303039140126181bb106058ce004ee6033c09a0ab487c42066622eb5448000483c019481fb47400cb49785078613989c7440e378b124cc8b54b1c80e0823f40416132c2315b40');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '1', '0', E'\\x9142dfb2b7d0f0f0480927a2104be8167a62b7468180f42f9d0aa950a39715a3', E'\\x0501010128b52ffd20c5fd0200f4033130376ed11240bc227a7765697465723133315430393a30353a303831329142dfb2b7d0f0f0480927a2104be8167a62b7468180f42f9d0aa950a39715a3310b002030045e3585492c8ed372eddc1e5b46a1b7355c543e80318ef20202');
INSERT INTO {schema}.keys (run_id, key, step) VALUES ('golden', E'\\x6669727374', '0');
INSERT INTO {schema}.keys (run_id, key, step) VALUES ('golden', E'\\x7a776569746572', '1');

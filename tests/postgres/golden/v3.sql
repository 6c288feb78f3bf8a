-- A store as version 3 left it: written once, never changed.
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

INSERT INTO {schema}.migrations (version) VALUES (3);
INSERT INTO {schema}.runs (run_id, last_step, floor, digest, status, started_at, updated_at, graph_id, graph_hash, runtime_hash, error_reason, parent_run_id, is_child, tags, summary) VALUES ('golden', '1', '0', E'\\x0ea9fd7438821fccbcfb1536ee8c28d7b81b505b472d1f85b9830a7b7c9bb744', 'running', '2026-01-01 00:00:00+00', '2026-01-01 00:00:01+00', '"triage"', E'\\xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', E'\\xbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', NULL, NULL, 'false', E'{"[\\"team\\",\\"a\\"]"}', E'\\x7b2272756e5f6964223a22676f6c64656e222c2267726170685f6964223a22747269616765222c2267726170685f68617368223a2261616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161222c2272756e74696d655f68617368223a2262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262222c22737461727465645f6174223a22323032362d30312d30315430303a30303a30302b30303a3030222c22757064617465645f6174223a22323032362d30312d30315430303a30303a30312b30303a3030222c226c6173745f73746570223a312c22737461747573223a2272756e6e696e67222c22706172656e745f72756e5f6964223a6e756c6c2c226f726967696e223a6e756c6c2c2270726f63657373223a6e756c6c2c226572726f72223a6e756c6c2c226d65746164617461223a7b227465616d223a2261227d7d');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '0', NULL, E'\\xe9504c4107d0c0351c000fb125e0f6168780ba8b0dee5f2f4a522da48c52fa45', E'\\x04010028b52ffd6036012d060004083138396e223a312c2274657874223a373022676f6c64656e74726961676561623065616138633837656236653438636562366236613631376664643538383364227465616d223a2261227d7de9504c4107d0c0351c000fb125e0f6168780ba8b0dee5f2f4a522da48c52fa4530227468652073616d6520696e20626f746820221700039a270420cae821160686210f02445791a04fc80f557850415ee8a51810271d44e10571f2a0891c6e16459990164b3e408f0a0d2636d0ca20d82c4c8639662b08');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '1', '0', E'\\x0ea9fd7438821fccbcfb1536ee8c28d7b81b505b472d1f85b9830a7b7c9bb744', E'\\x0401010128b52ffd20eddd0300b4055b302c3235322c2d33322c3238342c323639316ee9504c41356361386133616461396666343232616262653539383265306466393463613831310ea9fd7438821fccbcfb1536ee8c28d7b81b505b472d1f85b9830a7b7c9bb744310a00b049dff0d3592c0ec90dd8f9f2873bdc245c5cbb0c57980870cc1610');

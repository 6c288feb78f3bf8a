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
INSERT INTO {schema}.runs (run_id, last_step, floor, digest, status, started_at, updated_at, graph_id, graph_hash, runtime_hash, error_reason, parent_run_id, is_child, tags, summary) VALUES ('golden', '1', '0', E'\\x434b64d7bca4c11abbd2034e209c41344e5d8d9e3c571e15ecf8fad7c13d2a23', 'running', '2026-01-01 00:00:00+00', '2026-01-01 00:00:01+00', '"triage"', E'\\xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', E'\\xbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', NULL, NULL, 'false', E'{"[\\"team\\",\\"a\\"]"}', E'\\x7b2272756e5f6964223a22676f6c64656e222c2267726170685f6964223a22747269616765222c2267726170685f68617368223a2261616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161222c2272756e74696d655f68617368223a2262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262222c22737461727465645f6174223a22323032362d30312d30315430303a30303a30302b30303a3030222c22757064617465645f6174223a22323032362d30312d30315430303a30303a30312b30303a3030222c226c6173745f73746570223a312c22737461747573223a2272756e6e696e67222c22706172656e745f72756e5f6964223a6e756c6c2c226f726967696e223a6e756c6c2c2270726f63657373223a6e756c6c2c226572726f72223a6e756c6c2c226d65746164617461223a7b227465616d223a2261227d7d');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '0', NULL, E'\\x35de296dc3163f48d830dad28bfea4a3389e1478c82934af3ddb856835dd1927', E'\\x04010028b52ffd602f015d060034083138326e223a312c2274657874223a373022676f6c64656e74726961676561623765663838316530316165383438666239366237373262633636353136623166227465616d223a2261227d7d5a227d35de296dc3163f48d830dad28bfea4a3389e1478c82934af3ddb856835dd192730227468652073616d6520696e20626f746820221800069a2700104db812096ecd1b802552ea13059065befea2f08047410271d279131769e40b8893c748e47053b57f172812c5c24802f4e8d5476203ad0c82cd90649863b682');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '1', '0', E'\\x434b64d7bca4c11abbd2034e209c41344e5d8d9e3c571e15ecf8fad7c13d2a23', E'\\x0401010128b52ffd20e6cd0300e4055b302c3235322c2d33322c3238342c323638346e35de296d626465646534343964663765346262363864363838643839663063316337343831315a227d434b64d7bca4c11abbd2034e209c41344e5d8d9e3c571e15ecf8fad7c13d2a233108007d23028097ab4bfe70879b848b9f96e14212018ed90202');

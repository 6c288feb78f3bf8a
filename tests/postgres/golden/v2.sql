-- A store as version 2 left it: written once, never changed.
CREATE SCHEMA {schema};
CREATE TABLE {schema}.migrations (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row for each run: its tail and its summary. Every append moves it, so it is also the fence.
CREATE TABLE {schema}.runs (
    run_id text COLLATE "C" PRIMARY KEY,
    last_step bigint NOT NULL,
    floor bigint NOT NULL DEFAULT 0,
    digest bytea NOT NULL,
    status text NOT NULL,
    graph_id text NOT NULL,
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    summary bytea,
    tags text[] NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX runs_by_start ON {schema}.runs (started_at DESC, run_id) WHERE status <> 'deleted';
CREATE INDEX runs_by_status ON {schema}.runs (status, started_at DESC, run_id);
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

INSERT INTO {schema}.migrations (version) VALUES (2);
INSERT INTO {schema}.runs (run_id, last_step, floor, digest, status, graph_id, started_at, updated_at, summary, tags) VALUES ('golden', '1', '0', E'\\x6506f519c2c4ad7d7ae44ea1555b380fd519d6bf540226d0489ff6b27d2ee0c6', 'running', '"triage"', '2026-01-01 00:00:00+00', '2026-01-01 00:00:01+00', E'\\x7b2272756e5f6964223a22676f6c64656e222c2267726170685f6964223a22747269616765222c2267726170685f68617368223a2261616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161222c22737461727465645f6174223a22323032362d30312d30315430303a30303a30302b30303a3030222c22757064617465645f6174223a22323032362d30312d30315430303a30303a30312b30303a3030222c226c6173745f73746570223a312c22737461747573223a2272756e6e696e67222c22706172656e745f72756e5f6964223a6e756c6c2c226f726967696e223a6e756c6c2c226572726f72223a6e756c6c2c226d65746164617461223a7b227465616d223a2261227d7d', E'{"[\\"team\\",\\"a\\"]"}');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '0', NULL, E'\\x20c9c5a8146c0ad4bf54919714ad6c46f00f222855574425a24e9d762a6073ae', E'\\x03010028b52ffd6057017d060044083738326e223a312c2274657874223a31313222676f6c64656e74726961676561626235363261663433653762663462643438356230633634336335373263633539227465616d223a2261227d7d5a227d20c9c5a8146c0ad4bf54919714ad6c46f00f222855574425a24e9d762a6073ae30227468652073616d6520696e20626f74682022190095738051952df8d326588904afe60db81229f1890288325f5f517480a3208138e9b8898b33f205c4c9532472b8a9e2bf0b1089625c24017bf41623b19756a681228d248363b680');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '1', '0', E'\\x6506f519c2c4ad7d7ae44ea1555b380fd519d6bf540226d0489ff6b27d2ee0c6', E'\\x0301010128b52ffd20e6dd0200f4035b302c3234392c2d33322c3238312c323638346e20c9c5a86331315a227d6506f519c2c4ad7d7ae44ea1555b380fd519d6bf540226d0489ff6b27d2ee0c63109007d230280b7ba8880373ddc8125e1b6a165088d449863b682');

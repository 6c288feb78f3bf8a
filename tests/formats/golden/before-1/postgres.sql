-- A store as version 6 left it: written once, never changed.
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
    summary bytea,
    due_at timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX runs_by_start ON {schema}.runs (started_at DESC, run_id) WHERE status <> 'deleted';
CREATE INDEX runs_by_update ON {schema}.runs (updated_minute DESC) WHERE status <> 'deleted';
CREATE INDEX roots_by_start ON {schema}.runs (started_at DESC, run_id) WHERE NOT is_child AND status <> 'deleted';
CREATE INDEX runs_by_status ON {schema}.runs (status, started_at DESC, run_id);
CREATE INDEX runs_by_graph_id ON {schema}.runs (graph_id, started_at DESC, run_id) WHERE graph_id IS NOT NULL;
CREATE INDEX runs_by_graph_hash ON {schema}.runs (graph_hash, started_at DESC, run_id) WHERE graph_hash IS NOT NULL;
CREATE INDEX runs_by_runtime_hash ON {schema}.runs (runtime_hash, started_at DESC, run_id)
    WHERE runtime_hash IS NOT NULL;
CREATE INDEX runs_by_due ON {schema}.runs (due_at) WHERE due_at IS NOT NULL;
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

CREATE TABLE {schema}.queued (
    run_id text COLLATE "C" PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    state text NOT NULL,
    priority integer NOT NULL,
    order_at timestamptz NOT NULL,
    wake_at timestamptz,
    version bytea NOT NULL,
    concurrency_key bytea,
    process_id text COLLATE "C" NOT NULL,
    reserved_by text COLLATE "C",
    reserved_until timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX queued_by_order ON {schema}.queued (queue, version, priority DESC, order_at, run_id) WHERE state = 'ready';
CREATE INDEX queued_by_time ON {schema}.queued (wake_at) WHERE state = 'scheduled';
CREATE INDEX queued_by_process ON {schema}.queued (process_id, queue, version) WHERE state = 'running';
CREATE INDEX queued_by_reservation ON {schema}.queued (reserved_by) WHERE reserved_by IS NOT NULL;
CREATE INDEX queued_by_queue ON {schema}.queued (queue, version);

CREATE TABLE {schema}.limits (queue text COLLATE "C" PRIMARY KEY, limits text NOT NULL);

CREATE TABLE {schema}.handed_out (queue text COLLATE "C" NOT NULL, moment timestamptz NOT NULL);
CREATE INDEX handed_out_by_time ON {schema}.handed_out (queue, moment);

CREATE TABLE {schema}.processes (
    process_id text COLLATE "C" PRIMARY KEY,
    process bytea NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL
);

CREATE TABLE {schema}.schedules (id text COLLATE "C" PRIMARY KEY, schedule bytea NOT NULL);

INSERT INTO {schema}.migrations (version) VALUES (6);
INSERT INTO {schema}.runs (run_id, last_step, floor, digest, status, started_at, updated_at, graph_id, graph_hash, runtime_hash, error_reason, parent_run_id, is_child, tags, summary) VALUES ('golden', '1', '0', E'\\x074e3471503b0a77298fd1eba350d6020641fffd9d132c70f06a44866c1e1f73', 'running', '2026-01-01 00:00:00+00', '2026-01-01 00:00:01+00', '"triage"', E'\\xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', E'\\xbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', NULL, NULL, 'false', E'{"[\\"team\\",\\"a\\"]"}', E'\\x7b2272756e5f6964223a22676f6c64656e222c2267726170685f6964223a22747269616765222c2267726170685f68617368223a2261616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161222c2272756e74696d655f68617368223a2262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262222c22737461727465645f6174223a22323032362d30312d30315430303a30303a30302b30303a3030222c22757064617465645f6174223a22323032362d30312d30315430303a30303a30312b30303a3030222c226c6173745f73746570223a312c22737461747573223a2272756e6e696e67222c22706172656e745f72756e5f6964223a6e756c6c2c226f726967696e223a6e756c6c2c2270726f63657373223a6e756c6c2c226572726f72223a6e756c6c2c226d65746164617461223a7b227465616d223a2261227d7d');
INSERT INTO {schema}.runs (run_id, last_step, floor, digest, status, started_at, updated_at, graph_id, graph_hash, runtime_hash, error_reason, parent_run_id, is_child, tags, summary) VALUES ('golden-queued', '0', '0', E'\\x37994606e478da2db7f90a1e03545c6e29e2952641e1633dd3ca85ad971c33be', 'queued', '2026-01-01 00:00:00+00', '2026-01-01 00:00:00+00', '"triage"', E'\\xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', E'\\xbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', NULL, NULL, 'false', '{}', E'\\x7b2272756e5f6964223a22676f6c64656e2d717565756564222c2267726170685f6964223a22747269616765222c2267726170685f68617368223a2261616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161222c2272756e74696d655f68617368223a2262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262222c22737461727465645f6174223a22323032362d30312d30315430303a30303a30302b30303a3030222c22757064617465645f6174223a22323032362d30312d30315430303a30303a30302b30303a3030222c226c6173745f73746570223a302c22737461747573223a22717565756564222c22706172656e745f72756e5f6964223a6e756c6c2c226f726967696e223a6e756c6c2c2270726f63657373223a6e756c6c2c226572726f72223a6e756c6c2c226d65746164617461223a7b7d2c227175657565223a7b226e616d65223a226d61696c222c227072696f72697479223a322c22636f6e63757272656e63795f6b6579223a22ceb1222c226e6f745f6265666f7265223a6e756c6c7d7d');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '0', NULL, E'\\x29ba5da28b959be1a41a5f068523ee84f631bcabbf585a8088fdeeb64e22055b', E'\\x07010028b52ffd6036012d060004083138396e223a312c2274657874223a373022676f6c64656e74726961676561626239333632636130353230663439383838386332663364306533363161636433227465616d223a2261227d7d29ba5da28b959be1a41a5f068523ee84f631bcabbf585a8088fdeeb64e22055b30227468652073616d6520696e20626f746820221700039a270420cae821160686210f02445791a04fc80f557850415ee8a51810271d44e10571f2a0891c6e16459990164b3e408f0a0d2636d0ca20d82c4c8639662b08');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden', '1', '0', E'\\x074e3471503b0a77298fd1eba350d6020641fffd9d132c70f06a44866c1e1f73', E'\\x0701010128b52ffd20eddd0300b4055b302c3235322c2d33322c3238342c323639316e29ba5da233356339616364313066396534313636626562303034343462396433323366613131074e3471503b0a77298fd1eba350d6020641fffd9d132c70f06a44866c1e1f73310a00b049dff0d3d92556f70076acfce10e370917d72ec31526021cb30504');
INSERT INTO {schema}.checkpoints (run_id, step, base, digest, record) VALUES ('golden-queued', '0', NULL, E'\\x37994606e478da2db7f90a1e03545c6e29e2952641e1633dd3ca85ad971c33be', E'\\x07010028b52ffd602c01550700d408373139386e676f6c64656e2d7175657574726961676561626232323136323562623564333462306462653131633636333834356266323963222c22223a7b6d61696c222c227072696f72697479223a322c22636f6e795f22ceb1222c226e6f745f6265666f727d7d22226b6437994606e478da2db7f90a1e03545c6e29e2952641e1633dd3ca85ad971c33be30200079880279c4831ab91bdfd023030ccdc08a32f3eb89ad5e05e323b292935b9b4a76e2927c6e1754a0a6c23309f2862ec58038e91a0a2f8893d74ce470b3944539404f0fa0965bd7252e40b8606207ad0c060585c908c76c0101');
INSERT INTO {schema}.keys (run_id, key, step) VALUES ('golden-queued', E'\\x6b', '0');
INSERT INTO {schema}.queued (run_id, queue, state, priority, order_at, wake_at, version, concurrency_key, process_id, reserved_by, reserved_until) VALUES ('golden-queued', 'mail', 'ready', '2', '2026-01-01 00:00:00+00', NULL, E'\\x1cc0374869c683f379e132d4fbbad2f1', E'\\xceb1', '', NULL, NULL);
INSERT INTO {schema}.limits (queue, limits) VALUES ('mail', '{"concurrency":3,"per_key":null,"rate":null,"period":1.0}');
INSERT INTO {schema}.processes (process_id, process, first_seen, last_seen) VALUES ('0123456789abcdef', E'\\x7b22686f7374223a2268222c22706964223a312c2276657273696f6e223a2231222c22776f726b6572223a6e756c6c2c226964223a2230313233343536373839616263646566227d', '2026-11-28 01:20:13.725799+00', '2026-11-28 01:20:13.725799+00');
INSERT INTO {schema}.schedules (id, schedule) VALUES ('daily', E'\\x7b226964223a226461696c79222c2263726f6e223a22302037202a202a202a222c2274696d657a6f6e65223a22555443222c2267726170685f6964223a22747269616765222c22696e70757473223a7b7d2c227175657565223a7b226e616d65223a2264656661756c74222c227072696f72697479223a302c22636f6e63757272656e63795f6b6579223a6e756c6c2c226e6f745f6265666f7265223a6e756c6c7d2c226d65746164617461223a7b7d2c2273696e6365223a22323032362d30312d33315430303a30303a30302e3030303030305a227d');

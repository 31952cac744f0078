BEGIN TRANSACTION;
CREATE TABLE files (
	id VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	media_type VARCHAR NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	size INTEGER NOT NULL, 
	created FLOAT NOT NULL, 
	expires FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "files" VALUES('w00000000000000000000000000000000','anna','hello.ogg','audio/ogg','7988d81ea1f3ac572a9b0d690a792203e15befe521b51751e95cf502066d65c3',100,1795000000.0,4102444800.0);
CREATE TABLE jobs (
	id VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	priority VARCHAR NOT NULL, 
	due FLOAT NOT NULL, 
	private BOOLEAN NOT NULL, 
	"key" VARCHAR, 
	fingerprint VARCHAR NOT NULL, 
	created FLOAT NOT NULL, 
	started FLOAT, 
	finished FLOAT, 
	attempts INTEGER NOT NULL, 
	model VARCHAR NOT NULL, 
	file VARCHAR NOT NULL, 
	file_size INTEGER NOT NULL, 
	request TEXT NOT NULL, 
	error TEXT, 
	size INTEGER NOT NULL, 
	webhook VARCHAR NOT NULL, 
	delivered FLOAT, 
	deliveries TEXT NOT NULL, 
	logs TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "jobs" VALUES('01990000-0000-7000-8000-000000000001','anna','succeeded','normal',1795000000.0,0,'first','mark',1795000000.0,1795000001.0,1795000003.0,1,'ggml-demo','7988d81ea1f3ac572a9b0d690a792203e15befe521b51751e95cf502066d65c3',0,'{"listen":{"model":"ggml-demo","task":"transcribe","language":"en","languages":[],"multilingual":false,"conditioned":false,"prompt":"","keywords":[],"temperature":0.0,"words":false,"logprobs":false,"activity":null,"keep_alive":null,"audio_track":null,"raw":null,"start":0.0,"end":null},"file":"7988d81ea1f3ac572a9b0d690a792203e15befe521b51751e95cf502066d65c3","url":"","dialect":"jobs","app":"","response_format":"srt","style":{"words":false,"highlight_words":false,"max_line_width":null,"max_line_count":null,"min_cue_duration":0.0,"max_cue_duration":null,"max_reading_speed":null,"first_number":1,"logprobs":false,"languages":false,"count_tokens":false,"name":"audio"}}',NULL,300,'',NULL,'[]','[{"at":1795000003.0,"message":"succeeded","level":"INFO"}]');
INSERT INTO "jobs" VALUES('01990000-0000-7000-8000-000000000002','','queued','low',1795003601.0,0,NULL,'mark',1795000001.0,NULL,NULL,0,'ggml-demo','7988d81ea1f3ac572a9b0d690a792203e15befe521b51751e95cf502066d65c3',0,'{"listen":{"model":"ggml-demo","task":"transcribe","language":null,"languages":[],"multilingual":false,"conditioned":false,"prompt":"","keywords":[],"temperature":0.0,"words":false,"logprobs":false,"activity":null,"keep_alive":null,"audio_track":null,"raw":null,"start":0.0,"end":null},"file":"7988d81ea1f3ac572a9b0d690a792203e15befe521b51751e95cf502066d65c3","url":"","dialect":"jobs","app":"","response_format":"json","style":{"words":false,"highlight_words":false,"max_line_width":null,"max_line_count":null,"min_cue_duration":0.0,"max_cue_duration":null,"max_reading_speed":null,"first_number":1,"logprobs":false,"languages":false,"count_tokens":false,"name":"audio"}}',NULL,0,'',NULL,'[]','[]');
INSERT INTO "jobs" VALUES('01990000-0000-7000-8000-000000000003','','queued','normal',1795000002.0,0,NULL,'mark',1795000002.0,NULL,NULL,0,'ggml-demo','',0,'{"listen":{"model":"ggml-demo","task":"transcribe","language":null,"languages":[],"multilingual":false,"conditioned":false,"prompt":"","keywords":[],"temperature":0.0,"words":false,"logprobs":false,"activity":null,"keep_alive":null,"audio_track":null,"raw":null,"start":0.0,"end":null},"file":"","url":"http://10.0.0.1/a.wav","dialect":"jobs","app":"","response_format":"json","style":{"words":false,"highlight_words":false,"max_line_width":null,"max_line_count":null,"min_cue_duration":0.0,"max_cue_duration":null,"max_reading_speed":null,"first_number":1,"logprobs":false,"languages":false,"count_tokens":false,"name":"audio"}}',NULL,0,'',NULL,'[]','[]');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE UNIQUE INDEX jobs_by_key ON jobs (owner, "key");
CREATE INDEX jobs_in_line ON jobs (state, due, id);
CREATE INDEX ix_files_sha256 ON files (sha256);
COMMIT;

# Apache Kafka, one node in KRaft mode. No Debian package has it: the server is the jars that kafka/pom.xml names, which
# Maven fetches once. There is neither user nor password; topics are not created by being named.
# shellcheck shell=bash disable=SC2034,SC2086,SC2154  # names are shared between the files, and hold no blanks
service=kafka

# Below 32768 for the reason given in mariadb.sh.
service_port() { echo 15730; }
kafka_controller_port() { echo 15731; }
service_address() { echo "127.0.0.1:$(service_port)"; }
service_variable() { echo WAYBILL_TEST_KAFKA; }
service_env() { echo "WAYBILL_TEST_KAFKA=$(service_address)"; }
service_packages() { echo default-jre-headless maven; }
service_user() { echo nobody; } # there is no package to make an account

kafka_pom() { echo "${scripts_dir:?}/services/kafka/pom.xml"; }
kafka_jars() { echo "$state_dir/kafka-jars"; } # tests that start a server of their own look here as well

kafka_fetched() { cmp --silent "$(kafka_pom)" "$(kafka_jars)/pom.xml"; }

service_installed() {
	command -v java >/dev/null && { kafka_fetched || command -v mvn >/dev/null; }
}

service_fetch() {
	local jars
	kafka_fetched && return
	jars=$(kafka_jars)
	say "$service: fetching the server from Maven's repository"
	rm -rf "$jars" "$jars.new"
	mkdir -p "$jars.new"
	mvn --quiet --batch-mode --file "$(kafka_pom)" dependency:copy-dependencies \
		-DincludeScope=runtime -DoutputDirectory="$jars.new" </dev/null &&
		chmod -R a+rX "$jars.new" &&
		cp "$(kafka_pom)" "$jars.new/pom.xml" && # says that all is there
		mv "$jars.new" "$jars"
}

kafka_java() { # TOOL ARGUMENT...
	as_service_user java -Xmx128m -cp "$(kafka_jars)/*" "$@"
}

service_prepare() {
	local dir
	dir=$(service_dir)
	cat >"$dir/server.properties" <<-CONF
		process.roles=broker,controller
		node.id=1
		controller.quorum.voters=1@127.0.0.1:$(kafka_controller_port)
		controller.listener.names=CONTROLLER
		listeners=PLAINTEXT://$(service_address),CONTROLLER://127.0.0.1:$(kafka_controller_port)
		advertised.listeners=PLAINTEXT://$(service_address)
		log.dirs=$dir/data
		auto.create.topics.enable=false
		# One node has one replica of everything, and a test does not wait for members that may still come.
		default.replication.factor=1
		min.insync.replicas=1
		offsets.topic.replication.factor=1
		offsets.topic.num.partitions=4
		transaction.state.log.replication.factor=1
		transaction.state.log.min.isr=1
		transaction.state.log.num.partitions=1
		share.coordinator.state.topic.replication.factor=1
		share.coordinator.state.topic.min.isr=1
		share.coordinator.state.topic.num.partitions=1
		group.initial.rebalance.delay.ms=0
		# Topics of tests come and go: their files need not stay for a minute more.
		log.segment.delete.delay.ms=1000
	CONF
	kafka_java kafka.tools.StorageTool format --config "$dir/server.properties" \
		--cluster-id "$(kafka_java kafka.tools.StorageTool random-uuid)"
}

service_start() {
	start_daemon "$(command -v java)" -Xmx512m -cp "$(kafka_jars)/*" kafka.Kafka "$(service_dir)/server.properties"
}

# Asks which requests the server takes (ApiVersions, version 0), and wants "no error" in answer to it.
service_answers() {
	local answer
	port_is_open "$(service_port)" || return
	answer=$(
		exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$(service_port)" &&
			printf '\0\0\0\12\0\22\0\0\0\0\0\1\377\377' >&3 &&
			timeout 5 head -c 10 <&3 | od -An -tx1
	)
	[[ $answer == *' 00 00 00 01 00 00' ]]
}

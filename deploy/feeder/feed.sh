#!/usr/bin/env bash
# Sends the texts of samples.jsonl to a topic, one each PAUSE_SECONDS, over and over. Runs in the image of Kafka, which has a producer.
set -euo pipefail

texts() {
  while true; do
    while IFS= read -r line; do
      printf '%s\n' "$line"
      sleep "$PAUSE_SECONDS"
    done < "$(dirname "$0")/samples.jsonl"
  done
}

texts | /opt/kafka/bin/kafka-console-producer.sh --bootstrap-server "$BROKERS" --topic "$TOPIC" --timeout 100

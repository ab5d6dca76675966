#!/bin/sh
# Pushes a message with nothing but curl, in three ways.
#
#   ./push.sh [MESSAGE]
#   PERSEID_HTTP=http://10.0.0.5:3111 ROOM_TYPE=live ROOM=1000 MID=42 ./push.sh hello
#
# A client to see it: perseid listen -room live://1000 -mid 42
set -eu

http=${PERSEID_HTTP:-http://127.0.0.1:3111}
type=${ROOM_TYPE:-live}
room=${ROOM:-1000}
mid=${MID:-42}
message=${1:-hello}

# goim's route for a room: the body is the message, whatever it is. The answer
# has HTTP status 200 even where "code" says that something was wrong.
printf %s "$message" | curl -sS --data-binary @- \
  "$http/goim/push/room?operation=1000&type=$type&room=$room"
echo

# goim's route for users; repeat the parameter for more of them.
printf %s "$message" | curl -sS --data-binary @- \
  "$http/goim/push/mids?operation=1000&mids=$mid"
echo

# Perseid's own: several kinds of targets at once, a result for each, and an
# HTTP status that means what it says. base64 carries any bytes.
body=$(printf %s "$message" | base64 | tr -d '\n')
curl -sS --fail-with-body -H 'Content-Type: application/json' "$http/v1/push" -d '{
  "op": 1000,
  "body_base64": "'"$body"'",
  "targets": [{"room": "'"$type://$room"'"}, {"mid": '"$mid"'}]
}'
echo

#!/bin/sh
# Makes credentials.env, which kustomize makes the Secret of: random passwords, and URLs with them. Once: a MongoDB
# keeps the users that it was made with. Keep the file as you keep other secrets.
set -eu
cd "$(dirname "$0")"
if [ -e credentials.env ]; then
  echo "credentials.env is there already; a MongoDB that has files needs the passwords in it" >&2
  exit 1
fi
password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
redis=$(password)
cache=$(password)
mongo=$(password)
root=$(password)
keyfile=$(password)
umask 077
cat > credentials.new <<END
redis-password=$redis
cache-password=$cache
mongo-password=$mongo
mongo-root-password=$root
mongo-keyfile=$keyfile
redis-auth.conf=requirepass $redis
cache-auth.conf=requirepass $cache
redis-url=redis://:$redis@scalekit-journal.assessment.svc:6379
cache-url=redis://:$cache@scalekit-cache.assessment.svc:6379
mongo-url=mongodb://scalekit-service:$mongo@scalekit-mongo-0.scalekit-mongo.assessment.svc:27017/scalekit?authSource=scalekit&replicaSet=rs0
END
mv credentials.new credentials.env

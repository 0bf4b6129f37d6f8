// A role with just what the service does in its database, and a user with it. Run it once, as an administrator:
//
//   mongosh "mongodb://ADMIN@HOST/admin" --eval 'const password = passwordPrompt()' profiles/mongo-role.js
//
// The database is `scalekit` (deploy.mongo_database); the URL then is
// mongodb://scalekit-service:PASSWORD@HOST/scalekit?authSource=scalekit
const database = db.getSiblingDB('scalekit');

database.createRole({
  role: 'scalekitService',
  privileges: [
    {
      // Every collection of this database, and no other database.
      resource: { db: 'scalekit', collection: '' },
      actions: [
        // Reads that miss the cache, the audit, and what a collision is decided by.
        'find',
        // New documents; a merge or a replacement is an update, and so is a deletion: it leaves a tombstone.
        'insert',
        'update',
        // The index by which MongoDB itself removes tombstones after a day.
        'createIndex',
      ],
    },
  ],
  roles: [],
});

database.createUser({
  user: 'scalekit-service',
  pwd: password,
  roles: [{ role: 'scalekitService', db: 'scalekit' }],
});

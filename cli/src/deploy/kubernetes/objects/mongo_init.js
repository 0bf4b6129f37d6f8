// Makes a replica set of one, an administrator and the service's user. Run at each start: what is there already stays, and
// passwords become those of the Secret.
const { REPLICA_SET, MEMBER, DATABASE, SERVICE_USER, SERVICE_PASSWORD, ROOT_PASSWORD } = process.env;
const deadline = Date.now() + 600_000;

// Until mongod listens, and until it has become primary.
function patiently(step) {
  for (;;) {
    try {
      const result = step();
      if (result) return result;
    } catch (error) {
      if (error.codeName === 'AuthenticationFailed' || error.code === 18 || Date.now() > deadline) throw error;
    }
    if (Date.now() > deadline) throw new Error('mongod has not become primary in time');
    sleep(500);
  }
}

function open(login) {
  const options = 'directConnection=true&authSource=admin&serverSelectionTimeoutMS=2000';
  return patiently(() => connect(`mongodb://${login}127.0.0.1:27017/admin?${options}`));
}

function primary(admin) {
  patiently(() => admin.hello().isWritablePrimary);
  return admin;
}

function administrator() {
  const login = `root:${ROOT_PASSWORD}@`;
  try {
    return primary(open(login));
  } catch (error) {
    if (error.codeName !== 'AuthenticationFailed' && error.code !== 18) throw error;
  }
  // Nobody is there yet: this host may set the replica set up, and make the first user.
  const nobody = open('');
  try {
    nobody.adminCommand({ replSetInitiate: { _id: REPLICA_SET, members: [{ _id: 0, host: MEMBER }] } });
  } catch (error) {
    if (error.codeName !== 'AlreadyInitialized') throw error;
  }
  primary(nobody).createUser({ user: 'root', pwd: ROOT_PASSWORD, roles: ['root'] });
  return open(login);
}

const admin = administrator();
const service = admin.getSiblingDB(DATABASE);
if (service.getUser(SERVICE_USER)) {
  service.updateUser(SERVICE_USER, { pwd: SERVICE_PASSWORD });
} else {
  if (service.getRole('scalekitService')) service.dropRole('scalekitService');
  globalThis.db = admin;
  globalThis.password = SERVICE_PASSWORD;
  load('/etc/mongo/role.js');
}
